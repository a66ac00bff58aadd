//! The watch over HTTP/2's frames: it finds the same heads however the bytes are
//! cut, and those that a plain reading finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::fuzz::frame_heads;
use tollgate_fuzz::however_cut;

fuzz_target!(|bytes: &[u8]| {
    for preface in [0, 24] {
        let [whole, single, two] = however_cut(bytes, |pieces| frame_heads(pieces, preface));
        assert_eq!(whole, single);
        assert_eq!(whole, two);
        assert_eq!(whole, plainly(bytes, preface));
    }
});

/// RFC 9113 §4.1
fn plainly(bytes: &[u8], preface: usize) -> (Vec<(u32, u8, u32)>, bool) {
    let mut heads = Vec::new();
    let Some(mut rest) = bytes.get(preface..) else { return (heads, false) };
    loop {
        let [a, b, c, kind, _flags, stream @ ..] = rest else { return (heads, rest.is_empty()) };
        let Some((stream, payload)) = stream.split_first_chunk() else { return (heads, false) };
        let length = u32::from_be_bytes([0, *a, *b, *c]);
        heads.push((length, *kind, u32::from_be_bytes(*stream) & 0x7fff_ffff));
        let Some(after) = payload.get(length as usize..) else { return (heads, false) };
        rest = after;
    }
}
