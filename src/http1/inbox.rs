//! What was received and not yet looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// How much is read at once, to begin with and at the most.
const READ: usize = 8 * 1024;
const MOST_READ: usize = 128 * 1024;

/// With less room than this the buffer is made larger before it is read into.
const LEAST_ROOM: usize = 2 * 1024;

/// A buffer that is read into. Empty, it holds no memory until it is needed.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) bytes: BytesMut,
    /// How far the end of a head was looked for.
    pub(crate) searched: usize,
    /// How much to read at once.
    reads: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { bytes: BytesMut::new(), searched: 0, reads: READ }
    }

    /// A new message is expected, of which the size of the last says nothing.
    pub(crate) fn begin(&mut self) {
        self.reads = READ;
    }

    /// Gives the buffer back while there is nothing in it.
    pub(crate) fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }

    /// Reads what has come; zero at the end.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() - self.bytes.len() < LEAST_ROOM {
            self.bytes.reserve(self.reads);
        }
        let room = self.bytes.capacity() - self.bytes.len();
        let read = poll_read_buf(Pin::new(stream), cx, &mut self.bytes);
        if let Poll::Ready(Ok(read)) = &read
            && *read == room
            && room >= self.reads
        {
            // There is more where that came from.
            self.reads = (self.reads * 2).min(MOST_READ);
        }
        read
    }
}
