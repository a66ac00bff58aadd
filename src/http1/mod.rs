//! HTTP/1.1 messages as bytes (RFC 9112), whichever side of them Tollgate is:
//! how they are framed, read and written.
//!
//! What a peer sends is taken in one reading or refused. What is written is
//! framed anew, so that nothing of a peer's own spelling goes through.

mod fields;
mod framing;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod inbox;
mod outgoing;

pub(crate) use fields::{end_of_head, field, has_token, may_trail, stays_open};
pub(crate) use framing::{Framing, Incoming, Read, announced};
pub(crate) use inbox::Inbox;
pub(crate) use outgoing::{Outgoing, Stopped};

/// What makes a message one that could be read in two ways, or in none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("`Content-Length` is not one number")]
    Length,
    #[error("the transfer coding is not `chunked` alone")]
    Coding,
    #[error("the message has both `Transfer-Encoding` and `Content-Length`")]
    TwoFramings,
    #[error("a chunk is malformed")]
    Chunk,
    #[error("the trailer section is malformed or too long")]
    Trailers,
}
