//! A way in for the fuzz targets.

use super::frames::{Frames, Head};

/// The heads that the watch sees in bytes that come in `pieces`, each as length,
/// kind and stream, and whether the last frame is whole.
#[must_use]
pub fn frame_heads(pieces: &[&[u8]], preface: usize) -> (Vec<(u32, u8, u32)>, bool) {
    let mut frames = Frames::after(preface);
    let mut heads = Vec::new();
    for piece in pieces {
        frames.walk(piece, |Head { length, kind, stream }| heads.push((length, kind, stream)));
    }
    (heads, frames.are_whole())
}
