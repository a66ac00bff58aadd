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

/// How much is read at once of a body that was only announced.
const MOST_EXPECTED: usize = 32 * 1024;

/// With less room than this the buffer is made larger before it is read into.
const LEAST_ROOM: usize = 2 * 1024;

/// A buffer that is read into. Empty, it holds no memory until it is needed.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) bytes: BytesMut,
    /// How far the end of a head was looked for.
    pub(crate) searched: usize,
    /// Whether an empty line before the head was passed over.
    pub(crate) passed_over: bool,
    /// How much to read at once.
    reads: usize,
    /// Whether a read of this message filled all the room there was.
    filled: bool,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { bytes: BytesMut::new(), searched: 0, passed_over: false, reads: READ, filled: false }
    }

    /// A new message is expected, of which the size of the last says nothing.
    pub(crate) fn begin(&mut self) {
        self.reads = READ;
    }

    /// A new message of the same peer is expected, which is mostly like the last.
    pub(crate) fn begin_another(&mut self) {
        if !std::mem::take(&mut self.filled) {
            self.reads = (self.reads / 2).max(READ);
        }
    }

    /// So many bytes of a body are still to come.
    pub(crate) fn expect(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(MOST_EXPECTED);
        self.reads = self.reads.max(bytes.next_power_of_two());
    }

    /// Gives the buffer back while there is nothing in it.
    pub(crate) fn rest(&mut self) {
        if self.bytes.is_empty() {
            (self.bytes, self.reads) = (BytesMut::new(), READ);
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
            self.filled = true;
            self.reads = (self.reads * 2).min(MOST_READ);
        }
        read
    }
}
