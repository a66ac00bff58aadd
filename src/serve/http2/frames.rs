//! The heads of the frames in a stream of bytes (RFC 9113 §4.1).

/// The length of a frame's head.
pub(super) const HEAD: usize = 9;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const CONTINUATION: u8 = 0x9;

/// What stands before a frame's payload, as far as somebody here asks for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// The length of the payload.
    pub(super) length: u32,
    pub(super) kind: u8,
    /// The stream that it belongs to; zero is the connection.
    pub(super) stream: u32,
}

/// How far a stream of frames has come. It looks at heads, keeps the part of
/// one that has come, and steps over everything else.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// How much of the head has come.
    has: usize,
    /// How much of the payload is to come.
    owes: usize,
}

impl Frames {
    /// Frames that begin after `preface` bytes of something else.
    pub(super) fn after(preface: usize) -> Self {
        Self { head: [0; HEAD], has: 0, owes: preface }
    }

    /// Whether the last frame has come to its end and no other has begun.
    pub(super) fn are_whole(&self) -> bool {
        self.has == 0 && self.owes == 0
    }

    /// Goes on over `bytes`, and shows `each` the heads that end in them.
    pub(super) fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        loop {
            let payload = self.owes.min(bytes.len());
            self.owes -= payload;
            bytes = bytes.get(payload..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            let wanted = &mut self.head[self.has..];
            let come = wanted.len().min(bytes.len());
            wanted[..come].copy_from_slice(&bytes[..come]);
            bytes = &bytes[come..];
            self.has += come;
            if self.has < HEAD {
                return;
            }
            let [a, b, c, kind, _flags, stream @ ..] = self.head;
            let length = u32::from_be_bytes([0, a, b, c]);
            self.has = 0;
            self.owes = length as usize;
            // The first bit is reserved.
            each(Head { length, kind, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) });
        }
    }
}

/// The bytes of a GOAWAY frame that tells a client to do less (RFC 9113 §6.8, §7).
pub(super) fn enhance_your_calm(last_stream: u32, why: &str) -> Vec<u8> {
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    let length = u32::try_from(8 + why.len()).unwrap_or(8).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend(last_stream.to_be_bytes());
    frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend(why.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0xff]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let bytes = [
            b"preface".to_vec(),
            frame(HEADERS, 1, &[0xff; 300]),
            frame(DATA, 1, b""),
            frame(6, 0, b"12345678"),
            frame(RST_STREAM, u32::MAX, b"1234"),
        ]
        .concat();
        let expected = [(300, HEADERS, 1), (0, DATA, 1), (8, 6, 0), (4, RST_STREAM, u32::MAX >> 1)];
        for size in [1, 2, 3, 7, 8, 9, 10, 31, bytes.len()] {
            let mut frames = Frames::after(7);
            let mut seen = Vec::new();
            for part in bytes.chunks(size) {
                frames.walk(part, |head| seen.push((head.length, head.kind, head.stream)));
            }
            assert_eq!(seen, expected, "in parts of {size}");
            assert!(frames.are_whole());
        }
    }

    #[test]
    fn a_frame_is_whole_only_with_its_last_byte() {
        let bytes = frame(DATA, 1, b"abc");
        let mut frames = Frames::after(0);
        assert!(frames.are_whole());
        for byte in &bytes[..bytes.len() - 1] {
            frames.walk(std::slice::from_ref(byte), |_| {});
            assert!(!frames.are_whole());
        }
        frames.walk(&bytes[bytes.len() - 1..], |_| {});
        assert!(frames.are_whole());
    }

    #[test]
    fn the_goaway_is_one_frame() {
        let bytes = enhance_your_calm(7, "why");
        let mut frames = Frames::after(0);
        let mut seen = Vec::new();
        frames.walk(&bytes, |head| seen.push(head));
        assert_eq!(seen, [Head { length: 11, kind: GOAWAY, stream: 0 }]);
        assert!(frames.are_whole());
        assert_eq!(bytes[HEAD..], *b"\0\0\0\x07\0\0\0\x0bwhy");
    }
}
