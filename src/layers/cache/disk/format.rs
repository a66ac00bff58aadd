//! What stands in a segment: chunks of bodies, and commits, which make a response of
//! chunks, meta and a key. Each record has a checksum of its payload, and another of its
//! header together with the place where it stands, so that no record can be taken for
//! another. What is read is never trusted: a length is compared with what is there before
//! anything is done by it.

use bytes::Bytes;

/// What stands before each payload.
pub(super) const HEADER: usize = 16;

/// The most bytes of a body under one checksum.
pub(super) const CHUNK: usize = 256 * 1024;

/// A body up to here is read along with its commit, which stands right behind it.
pub(super) const SMALL: usize = 64 * 1024;

/// The most bytes that a commit takes, without the list of its extents.
pub(super) const MOST_META: usize = 1024 * 1024;

/// What a commit takes beside its parts.
const FIXED: usize = 36;

/// What an extent takes in a commit.
const EXTENT: usize = 16;

/// Where a record stands.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Chunk,
    Commit,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Of the payload.
    pub(super) length: u32,
    /// The payload's checksum.
    pub(super) sum: u32,
}

/// A part of a body: a chunk, by the place of its record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    pub(super) place: Place,
    pub(super) length: u32,
    pub(super) sum: u32,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Commit {
    pub(super) key: Box<str>,
    pub(super) variant: u64,
    /// How many purges there had been when it was asked for.
    pub(super) stamp: u64,
    /// It was purged softly before that.
    pub(super) condemned: bool,
    pub(super) tags: Box<[u64]>,
    pub(super) extents: Vec<Extent>,
    pub(super) meta: Bytes,
}

/// A commit, and the body if it was read along.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Span {
    pub(super) commit: Commit,
    pub(super) body: Option<Bytes>,
}

pub(super) fn sum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

impl Place {
    /// So many bytes further on. None where no segment reaches.
    pub(super) fn after(self, bytes: usize) -> Option<Self> {
        let offset = self.offset.checked_add(u32::try_from(bytes).ok()?)?;
        Some(Self { offset, ..self })
    }
}

impl Header {
    pub(super) fn encode(self, place: Place) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[4] = match self.kind {
            Kind::Chunk => 1,
            Kind::Commit => 2,
        };
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.sum.to_le_bytes());
        let sum = Self::sum(&bytes, place);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// What stands at the beginning of `bytes`, which are those at `place`.
    pub(super) fn decode(bytes: &[u8], place: Place) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let mut reader = Reader(bytes);
        (reader.u32()? == Self::sum(bytes, place)).then_some(())?;
        let kind = match reader.u32()? {
            1 => Kind::Chunk,
            2 => Kind::Commit,
            _ => return None,
        };
        Some(Self { kind, length: reader.u32()?, sum: reader.u32()? })
    }

    fn sum(bytes: &[u8; HEADER], place: Place) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[4..]);
        hasher.update(&place.segment.to_le_bytes());
        hasher.update(&place.offset.to_le_bytes());
        hasher.finalize()
    }
}

impl Commit {
    /// How many bytes its record takes with so many extents.
    pub(super) fn size(&self, extents: usize) -> usize {
        HEADER + FIXED + self.key.len() + self.tags.len() * 8 + extents * EXTENT + self.meta.len()
    }

    /// Appends the record to what will stand at `place`.
    pub(super) fn encode(&self, place: Place, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend([0; HEADER]);
        into.extend(self.variant.to_le_bytes());
        into.extend(self.stamp.to_le_bytes());
        into.extend(u32::from(self.condemned).to_le_bytes());
        for length in [self.key.len(), self.tags.len(), self.extents.len(), self.meta.len()] {
            into.extend(length_of(length).to_le_bytes());
        }
        into.extend(self.key.as_bytes());
        self.tags.iter().for_each(|tag| into.extend(tag.to_le_bytes()));
        for Extent { place, length, sum } in &self.extents {
            for number in [place.segment, place.offset, *length, *sum] {
                into.extend(number.to_le_bytes());
            }
        }
        into.extend(&self.meta[..]);
        head(into, start, Kind::Commit, place);
    }

    fn decode(payload: &Bytes) -> Option<Self> {
        let mut reader = Reader(payload);
        let (variant, stamp) = (reader.u64()?, reader.u64()?);
        let condemned = reader.u32()? != 0;
        let mut lengths = [0; 4];
        for length in &mut lengths {
            *length = usize::try_from(reader.u32()?).ok()?;
        }
        let [key, tags, extents, meta] = lengths;
        let key = std::str::from_utf8(reader.take(key)?).ok()?.into();
        let mut numbers = Reader(reader.take(tags.checked_mul(8)?)?);
        let tags = std::iter::from_fn(|| numbers.u64()).collect();
        let mut numbers = Reader(reader.take(extents.checked_mul(EXTENT)?)?);
        let extents = std::iter::from_fn(|| numbers.extent()).collect();
        (reader.0.len() == meta).then_some(())?;
        let meta = payload.slice(payload.len() - meta..);
        Some(Self { key, variant, stamp, condemned, tags, extents, meta })
    }

    /// The segment that goes first of those that it lies in.
    pub(super) fn oldest(&self, place: Place) -> u32 {
        let segments = self.extents.iter().map(|extent| extent.place.segment);
        segments.fold(place.segment, u32::min)
    }

    pub(super) fn length(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.length)).sum()
    }
}

/// Appends a chunk to what will stand at `place`.
pub(super) fn chunk(pieces: &[Bytes], place: Place, into: &mut Vec<u8>) -> Extent {
    let start = into.len();
    into.extend([0; HEADER]);
    pieces.iter().for_each(|piece| into.extend_from_slice(piece));
    let Header { length, sum, .. } = head(into, start, Kind::Chunk, place);
    Extent { place, length, sum }
}

/// Writes the header of the record that begins at `start`.
fn head(into: &mut [u8], start: usize, kind: Kind, place: Place) -> Header {
    let payload = &into[start + HEADER..];
    let header = Header { kind, length: length_of(payload.len()), sum: sum(payload) };
    into[start..start + HEADER].copy_from_slice(&header.encode(place));
    header
}

/// Nothing that is written is longer than a segment.
fn length_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The payload of a chunk's record, if it is that of the extent.
pub(super) fn verified(record: &Bytes, extent: &Extent) -> Option<Bytes> {
    let header = Header::decode(record, extent.place)?;
    let expected = Header { kind: Kind::Chunk, length: extent.length, sum: extent.sum };
    let payload = record.slice(HEADER..);
    (header == expected && payload.len() == extent.length as usize).then_some(())?;
    (sum(&payload) == extent.sum).then_some(payload)
}

impl Span {
    /// What `bytes`, and nothing else, hold: a commit, or its only chunk and the commit.
    pub(super) fn decode(bytes: &Bytes, place: Place) -> Option<Self> {
        let header = Header::decode(bytes, place)?;
        let size = HEADER.checked_add(header.length as usize)?;
        (size <= bytes.len()).then_some(())?;
        if header.kind == Kind::Commit {
            let payload = bytes.slice(HEADER..);
            (size == bytes.len() && sum(&payload) == header.sum).then_some(())?;
            return Some(Self { commit: Commit::decode(&payload)?, body: None });
        }
        let extent = Extent { place, length: header.length, sum: header.sum };
        let body = verified(&bytes.slice(..size), &extent)?;
        let Self { commit, body: None } = Self::decode_commit(bytes, size, place)? else {
            return None;
        };
        (commit.extents == [extent]).then_some(Self { commit, body: Some(body) })
    }

    fn decode_commit(bytes: &Bytes, at: usize, place: Place) -> Option<Self> {
        let (rest, place) = (bytes.slice(at..), place.after(at)?);
        // Two chunks in a row are no span.
        (Header::decode(&rest, place)?.kind == Kind::Commit).then_some(())?;
        Self::decode(&rest, place)
    }
}

/// Reads numbers, as long as there are any.
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

impl<'b> Reader<'b> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn extent(&mut self) -> Option<Extent> {
        let place = Place { segment: self.u32()?, offset: self.u32()? };
        Some(Extent { place, length: self.u32()?, sum: self.u32()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commits() -> impl Strategy<Value = Commit> {
        let numbers = (any::<u64>(), any::<u64>(), any::<bool>());
        let extent = any::<[u32; 4]>().prop_map(|[segment, offset, length, sum]| {
            let place = Place { segment, offset };
            Extent { place, length, sum }
        });
        let extents = proptest::collection::vec(extent, 0..4);
        let parts = (".{0,40}", any::<Vec<u64>>(), any::<Vec<u8>>(), extents);
        (numbers, parts).prop_map(|((variant, stamp, condemned), (key, tags, meta, extents))| {
            let (key, tags, meta) = (key.into(), tags.into(), meta.into());
            Commit { key, variant, stamp, condemned, tags, extents, meta }
        })
    }

    const PLACE: Place = Place { segment: 7, offset: 4096 };

    fn small(commit: &mut Commit, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let extent = chunk(&[Bytes::copy_from_slice(body)], PLACE, &mut bytes);
        commit.extents = vec![extent];
        commit.encode(PLACE.after(bytes.len()).unwrap(), &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mut commit in commits(), body in any::<Vec<u8>>()) {
            let mut alone = Vec::new();
            commit.encode(PLACE, &mut alone);
            prop_assert_eq!(alone.len(), commit.size(commit.extents.len()));
            let span = Span { commit: commit.clone(), body: None };
            prop_assert_eq!(Span::decode(&alone.into(), PLACE), Some(span));
            let both = small(&mut commit, &body);
            let span = Span { commit, body: Some(body.into()) };
            prop_assert_eq!(Span::decode(&both.into(), PLACE), Some(span));
        }

        #[test]
        fn a_changed_byte_is_seen(
            mut commit in commits(),
            body in any::<Vec<u8>>(),
            at in any::<prop::sample::Index>(),
            by in 1..=255_u8,
        ) {
            let mut bytes = small(&mut commit, &body);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert_eq!(Span::decode(&bytes.into(), PLACE), None);
        }

        #[test]
        fn a_record_is_read_in_its_place_only(commit in commits(), by in 1..u32::MAX) {
            let mut bytes = Vec::new();
            commit.encode(PLACE, &mut bytes);
            let bytes = Bytes::from(bytes);
            let moved = Place { offset: PLACE.offset.wrapping_add(by), ..PLACE };
            prop_assert_eq!(Span::decode(&bytes, moved), None);
            let moved = Place { segment: PLACE.segment.wrapping_add(by), ..PLACE };
            prop_assert_eq!(Span::decode(&bytes, moved), None);
        }

        #[test]
        fn no_bytes_are_trusted(bytes in any::<Vec<u8>>(), kind in 0..3_u32) {
            let _nothing = Span::decode(&bytes.clone().into(), PLACE);
            let _something = Commit::decode(&bytes.clone().into());
            // Even if its checksums are right.
            let mut record = vec![0; HEADER];
            record.extend(&bytes);
            let kind = if kind == 1 { Kind::Chunk } else { Kind::Commit };
            head(&mut record, 0, kind, PLACE);
            let _anything = Span::decode(&record.into(), PLACE);
        }
    }
}
