//! Compression of responses, off unless a route has it.
//!
//! | file | what it is about |
//! |---|---|
//! | `settings` | what is offered, and for what |
//! | `accept` | `Accept-Encoding`, read and written |
//! | `eligible` | whether a response is compressed |
//! | `head` | what that changes in its head |
//! | `encoder` | the encoders |
//! | `body` | content on its way through one |
//! | `room` | how much memory they take together |
//! | `service` | the layers |
//!
//! There are two, with the cache between them. The upper one has requests that mean the
//! same say the same; the lower one compresses what the origin sends, so that each variant
//! is compressed once and stored compressed.

mod accept;
mod body;
mod eligible;
mod encoder;
mod head;
mod room;
mod service;
mod settings;

pub use service::{
    AcceptEncoding, AcceptEncodingLayer, Compressed, CompressionFuture, CompressionLayer,
};
pub use settings::{CompressionLevel, CompressionSettings, ContentCoding, MediaPattern};
