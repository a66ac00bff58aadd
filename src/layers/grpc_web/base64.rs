//! Base64 in pieces: `grpc-web-text` cuts it anywhere, and pads it anywhere.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;

/// Reads Base64 that comes in pieces. What is behind a padding begins anew.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The start of a group of four characters.
    rest: Vec<u8>,
}

/// What was to be Base64 is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the body is not Base64")]
pub(super) struct NotBase64;

impl Decoder {
    /// What can be told of the bytes so far.
    pub(super) fn decode(&mut self, piece: &[u8]) -> Result<Bytes, NotBase64> {
        let mut text = std::mem::take(&mut self.rest);
        text.extend_from_slice(piece);
        self.rest = text.split_off(text.len() - text.len() % 4);
        let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
        let mut text = text.as_slice();
        while !text.is_empty() {
            let padding = text.iter().position(|byte| *byte == b'=');
            let end = padding.map_or(text.len(), |at| (at / 4 + 1) * 4);
            let (group, behind) = text.split_at(end);
            BASE64_STANDARD.decode_vec(group, &mut decoded).map_err(|_| NotBase64)?;
            text = behind;
        }
        Ok(decoded.into())
    }

    /// Whether the text may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Writes a piece, padded, so that nothing of it has to wait for the next.
pub(super) fn encode(piece: &[u8]) -> Bytes {
    BASE64_STANDARD.encode(piece).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(pieces: &[&[u8]]) -> Result<Vec<u8>, NotBase64> {
        let mut decoder = Decoder::default();
        let mut all = Vec::new();
        for piece in pieces {
            all.extend(decoder.decode(piece)?);
        }
        if decoder.is_whole() { Ok(all) } else { Err(NotBase64) }
    }

    #[test]
    fn padding_may_stand_in_the_middle() {
        assert_eq!(decoded(&[b"YQ==YmM=ZGVm"]).unwrap(), b"abcdef");
        assert_eq!(decoded(&[b"YQ", b"==Ym", b"", b"M=ZGVm"]).unwrap(), b"abcdef");
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["YQ", "YQ=", "Y===", "====", "YQ==\n", "Y-__", "YR==", "=YQ="] {
            assert_eq!(decoded(&[text.as_bytes()]), Err(NotBase64), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_in_pieces_reads_back_however_it_is_cut(
            pieces: Vec<Vec<u8>>,
            cuts in prop::collection::vec(0_usize..50, 0..20),
        ) {
            let text: Vec<u8> = pieces.iter().flat_map(|piece| encode(piece)).collect();
            let mut rest = text.as_slice();
            let mut parts = Vec::new();
            for cut in cuts {
                let (part, behind) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = behind;
            }
            parts.push(rest);
            prop_assert_eq!(decoded(&parts).unwrap(), pieces.concat());
        }

        #[test]
        fn no_bytes_are_too_odd(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = decoded(&pieces);
        }
    }
}
