//! What was received and not yet looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use crate::budget::{Budget, Charge, Use};

/// How much is read at once, to begin with and at the most.
const READ: usize = 8 * 1024;
const MOST_READ: usize = 128 * 1024;

/// How much is read at once of a body that was only announced.
const MOST_EXPECTED: usize = 32 * 1024;

/// With less room than this the buffer is made larger before it is read into.
const LEAST_ROOM: usize = 2 * 1024;

/// How long the buffer may get without a charge of its own: it is a part of what
/// a connection is charged for.
const UNCHARGED: usize = 2 * READ;

/// A buffer that is read into. Empty, it holds no memory until it is needed. What
/// it holds beyond the least is charged to the memory budget; where that has no
/// room, less is read at once.
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
    budget: Budget,
    charge: Charge,
    /// How much of the charge is for a head that was taken out and is still in use.
    pinned: usize,
}

impl Inbox {
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            bytes: BytesMut::new(),
            searched: 0,
            passed_over: false,
            reads: READ,
            filled: false,
            budget,
            charge: Charge::default(),
            pinned: 0,
        }
    }

    /// A new message is expected, of which the size of the last says nothing.
    pub(crate) fn begin(&mut self) {
        self.reads = READ;
    }

    /// Nothing that was taken out is in use any more: gives back what the buffer
    /// has beyond the least.
    pub(crate) fn settle(&mut self) {
        self.pinned = 0;
        if self.charge.bytes() > 0 && self.bytes.is_empty() {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        (self.bytes, self.charge, self.pinned) = (BytesMut::new(), Charge::default(), 0);
    }

    /// The body of a new message of the same peer is expected, which is mostly like
    /// the last. The head that was taken out stays charged.
    pub(crate) fn begin_another(&mut self) {
        self.pinned = self.charge.bytes();
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
            self.let_go();
            self.reads = READ;
        }
    }

    /// Reads what has come; zero at the end.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() - self.bytes.len() < LEAST_ROOM {
            self.make_room()?;
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

    /// Makes the buffer larger, as far as the memory budget goes.
    fn make_room(&mut self) -> io::Result<()> {
        for reads in [self.reads, READ] {
            if self.bytes.try_reclaim(reads) {
                return Ok(());
            }
            // By more than the half, so that what it holds is seldom moved. Not by
            // `reserve`, which may make it longer than it is told.
            let length = self.bytes.len() + reads.max(self.bytes.len());
            let beyond = length.saturating_sub(UNCHARGED);
            let charged = if beyond == 0 { 0 } else { self.pinned + beyond };
            if self.budget.extend(&mut self.charge, charged, Use::Buffer) {
                let mut longer = BytesMut::with_capacity(length);
                longer.extend_from_slice(&self.bytes);
                self.bytes = longer;
                return Ok(());
            }
            self.reads = READ;
        }
        if self.bytes.len() < self.bytes.capacity() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::OutOfMemory, "the memory budget is used up"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fill(inbox: &mut Inbox, mut from: &[u8]) -> io::Result<()> {
        while std::future::poll_fn(|cx| inbox.poll_fill(&mut from, cx)).await? > 0 {}
        Ok(())
    }

    /// Reads as a body is: all that has come is taken at once. Tells the most.
    async fn stream(inbox: &mut Inbox, length: usize) -> usize {
        let bytes = vec![b'x'; length];
        let (mut from, mut most, mut all) = (&bytes[..], 0, 0);
        while std::future::poll_fn(|cx| inbox.poll_fill(&mut from, cx)).await.unwrap() > 0 {
            most = most.max(inbox.bytes.len());
            all += inbox.bytes.split().len();
        }
        assert_eq!(all, length);
        most
    }

    #[tokio::test]
    async fn what_flows_fast_is_read_in_large_steps_that_are_charged() {
        let budget = Budget::new(1 << 20);
        let mut inbox = Inbox::new(budget.clone());
        assert!(stream(&mut inbox, 1 << 20).await >= 64 * 1024);
        assert!(budget.charged() >= MOST_READ - UNCHARGED, "{}", budget.charged());
        assert!(budget.charged() <= 2 * MOST_READ, "{}", budget.charged());
        inbox.settle();
        assert_eq!(budget.charged(), 0);
    }

    #[tokio::test]
    async fn without_memory_it_is_read_in_small_steps() {
        let budget = Budget::new(1024);
        let mut inbox = Inbox::new(budget.clone());
        assert!(stream(&mut inbox, 1 << 20).await <= UNCHARGED);
        assert!(budget.refused(Use::Buffer) > 0);
        assert!(inbox.bytes.capacity() <= UNCHARGED);
    }

    #[tokio::test]
    async fn a_head_that_there_is_no_memory_for_fails() {
        let mut inbox = Inbox::new(Budget::new(1024));
        fill(&mut inbox, &[b'x'; 4 * 1024]).await.unwrap();
        let error = fill(&mut inbox, &[b'x'; 60 * 1024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert!(inbox.bytes.capacity() <= UNCHARGED);
        let mut inbox = Inbox::new(Budget::new(1 << 20));
        fill(&mut inbox, &[b'x'; 60 * 1024]).await.unwrap();
    }

    #[tokio::test]
    async fn a_head_in_use_stays_charged_beside_the_body() {
        let budget = Budget::new(1 << 20);
        let mut inbox = Inbox::new(budget.clone());
        fill(&mut inbox, &[b'x'; 60 * 1024]).await.unwrap();
        let head = inbox.bytes.split();
        inbox.begin_another();
        let with_head = budget.charged();
        assert!(with_head >= 44 * 1024, "{with_head}");
        stream(&mut inbox, 1 << 20).await;
        assert!(budget.charged() >= with_head + MOST_READ - UNCHARGED);
        drop(head);
        inbox.settle();
        assert_eq!(budget.charged(), 0);
    }
}
