//! The writes of one turn, done together.
//!
//! A worker takes what the sockets have brought, and for each of them parses,
//! decides and writes. Done one after the other, every small write pulls the
//! system's whole network stack through the caches, and wakes a receiver that
//! goes to sleep again before the next. So small writes wait to the end of the
//! turn, until all tasks that were ready have run, and go out in a row. Nothing
//! waits for more than that: a worker with one request to serve sends at once.
//!
//! Only a thread that runs [`end_of_turns`] does so; on all others, such as those
//! of an application that embeds the proxy, a write is a write.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The longest write that waits.
const SMALL: usize = 4 * 1024;

/// The most that waits of one connection.
const MOST: usize = 16 * 1024;

/// How many buffers are kept for the next turn.
const SPARE: usize = 64;

/// A TCP connection whose small writes wait to the end of the turn.
#[derive(Debug)]
pub struct Tcp {
    read: OwnedReadHalf,
    out: Arc<Mutex<Out>>,
}

/// The way out of a connection.
#[derive(Debug)]
struct Out {
    /// `None` only once it is dropped.
    half: Option<OwnedWriteHalf>,
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// Whether the end of the turn will write them.
    queued: bool,
    /// Who waits for them to be written: a socket wakes only the one that asked
    /// it last, and both the connection and the end of the turn may.
    waiter: Option<Waker>,
    /// Whether the connection itself is gone.
    abandoned: bool,
    failed: Option<io::Error>,
}

/// What waits for the end of this thread's turn.
#[derive(Default)]
struct Turn {
    waiting: Vec<Arc<Mutex<Out>>>,
    spare: Vec<Vec<u8>>,
    waker: Option<Waker>,
}

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// Ends the turns of this thread: to be run as a task of a current-thread
/// runtime, for as long as that runs. Never resolves.
#[must_use]
pub fn end_of_turns() -> EndOfTurns {
    EndOfTurns { ready: Vec::new(), stuck: Vec::new() }
}

/// See [`end_of_turns`].
#[derive(Debug)]
pub struct EndOfTurns {
    ready: Vec<Arc<Mutex<Out>>>,
    /// Those whose socket took not everything.
    stuck: Vec<Arc<Mutex<Out>>>,
}

impl EndOfTurns {
    fn write(&mut self, cx: &mut Context<'_>) {
        let mut spare = Vec::new();
        let keep = |out: &Arc<Mutex<Out>>, cx: &mut Context<'_>, spare: &mut Vec<Vec<u8>>| {
            let mut out = out.lock();
            out.queued = false;
            match out.poll_out(cx) {
                Poll::Pending => !out.abandoned,
                Poll::Ready(written) => {
                    if let Some(waiter) = out.waiter.take() {
                        waiter.wake();
                    }
                    out.failed = written.err();
                    out.written = 0;
                    let mut bytes = std::mem::take(&mut out.bytes);
                    // What could not be written is nobody else's.
                    bytes.clear();
                    spare.push(bytes);
                    false
                }
            }
        };
        self.stuck.retain(|out| keep(out, cx, &mut spare));
        for out in self.ready.drain(..) {
            if keep(&out, cx, &mut spare) {
                self.stuck.push(out);
            }
        }
        TURN.with_borrow_mut(|turn| {
            let Some(turn) = turn else { return };
            let room = SPARE.saturating_sub(turn.spare.len());
            turn.spare.extend(spare.into_iter().take(room));
        });
    }
}

impl Future for EndOfTurns {
    type Output = std::convert::Infallible;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        TURN.with_borrow_mut(|turn| {
            let turn = turn.get_or_insert_default();
            std::mem::swap(&mut turn.waiting, &mut this.ready);
            match &mut turn.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => turn.waker = Some(cx.waker().clone()),
            }
        });
        // A task that has done much is told that no socket takes anything, and
        // what was left by a connection that is gone would be given up.
        let all = tokio::task::unconstrained(std::future::poll_fn(|cx| {
            this.write(cx);
            Poll::Pending
        }));
        std::pin::pin!(all).poll(cx)
    }
}

impl Drop for EndOfTurns {
    fn drop(&mut self) {
        // From now on a write of this thread is a write.
        if let Some(turn) = TURN.take() {
            self.ready.extend(turn.waiting);
        }
        self.write(&mut Context::from_waker(Waker::noop()));
    }
}

impl Tcp {
    /// Takes a connection over.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        let (read, half) = stream.into_split();
        let out = Out {
            half: Some(half),
            bytes: Vec::new(),
            written: 0,
            queued: false,
            waiter: None,
            abandoned: false,
            failed: None,
        };
        Self { read, out: Arc::new(Mutex::new(out)) }
    }

    /// Puts these parts among the writes of this turn; `None` if they are too
    /// long for that, or there are no turns here.
    fn defer(&self, out: &mut Out, parts: &[IoSlice<'_>]) -> Option<usize> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > SMALL || out.bytes.len() + length > MOST {
            return None;
        }
        if !out.queued {
            if !out.bytes.is_empty() {
                return None;
            }
            TURN.with_borrow_mut(|turn| {
                let turn = turn.as_mut()?;
                out.bytes = turn.spare.pop().unwrap_or_default();
                if turn.waiting.is_empty()
                    && let Some(waker) = &turn.waker
                {
                    waker.wake_by_ref();
                }
                turn.waiting.push(self.out.clone());
                Some(())
            })?;
            out.queued = true;
        }
        for part in parts {
            out.bytes.extend_from_slice(part);
        }
        Some(length)
    }
}

impl Out {
    /// Writes what waits.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { half, bytes, written, .. } = self;
        let Some(half) = half else { return Poll::Ready(Ok(())) };
        while *written < bytes.len() {
            match ready!(Pin::new(&mut *half).poll_write(cx, &bytes[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                some => *written += some,
            }
        }
        bytes.clear();
        *written = 0;
        Poll::Ready(Ok(()))
    }

    /// The same, for the connection: it is woken also if the end of the turn was
    /// faster.
    fn poll_out_of(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_out(cx);
        self.waiter = polled.is_pending().then(|| cx.waker().clone());
        polled
    }

    fn half(&mut self) -> io::Result<Pin<&mut OwnedWriteHalf>> {
        self.half.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Some(half) = self.half.take() {
            // Closing the socket ends both halves in one step.
            half.forget();
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        let mut out = self.out.lock();
        out.abandoned = true;
        if !out.bytes.is_empty() {
            // It is tried once more, and then given up.
            let _no_thread_left = TURN.try_with(|turn| {
                let waker = turn.borrow().as_ref().and_then(|turn| turn.waker.clone());
                waker.inspect(Waker::wake_by_ref);
            });
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut out = self.out.lock();
        if let Some(error) = out.failed.take() {
            return Poll::Ready(Err(error));
        }
        if let Some(length) = self.defer(&mut out, bufs) {
            return Poll::Ready(Ok(length));
        }
        ready!(out.poll_out_of(cx))?;
        match bufs {
            [buf] => out.half()?.poll_write(cx, buf),
            _ => out.half()?.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready also if the end of the turn is still to come.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out.lock();
        match out.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None if out.queued => Poll::Ready(Ok(())),
            None => out.poll_out_of(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out.lock();
        ready!(out.poll_out_of(cx))?;
        out.half()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (here, _) = listener.accept().await.unwrap();
        (Tcp::new(here), there)
    }

    fn waiting() -> usize {
        TURN.with_borrow(|turn| turn.as_ref().map_or(0, |turn| turn.waiting.len()))
    }

    /// Starts the turns of this thread.
    async fn turns() -> tokio::task::JoinHandle<std::convert::Infallible> {
        let turns = tokio::spawn(end_of_turns());
        tokio::task::yield_now().await;
        turns
    }

    #[tokio::test]
    async fn small_writes_go_out_together_at_the_end_of_the_turn() {
        let turns = turns().await;
        let (mut here, mut there) = pair().await;
        here.write_all(b"one ").await.unwrap();
        here.write_all(b"two").await.unwrap();
        here.flush().await.unwrap();
        assert_eq!(waiting(), 1);
        let mut nothing = [0; 1];
        assert!(there.try_read(&mut nothing).is_err());
        let mut all = [0; 7];
        there.read_exact(&mut all).await.unwrap();
        assert_eq!((&all, waiting()), (b"one two", 0));
        turns.abort();
    }

    #[tokio::test]
    async fn order_is_kept_and_all_arrives_however_slowly_it_is_taken() {
        let turns = turns().await;
        let (mut here, mut there) = pair().await;
        let mut expected = Vec::new();
        for (round, size) in [10, 100_000, 3_000, 5, 4_000_000, 7].into_iter().enumerate() {
            expected.extend(vec![u8::try_from(round).unwrap(); size]);
        }
        let sent = expected.clone();
        let sending = tokio::spawn(async move {
            let mut from = 0;
            for size in [10, 100_000, 3_000, 5, 4_000_000, 7] {
                here.write_all(&sent[from..from + size]).await.unwrap();
                here.flush().await.unwrap();
                from += size;
            }
            here.shutdown().await.unwrap();
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut all = Vec::new();
        there.read_to_end(&mut all).await.unwrap();
        assert!(all == expected);
        sending.await.unwrap();
        turns.abort();
    }

    #[tokio::test]
    async fn what_waits_is_written_though_the_connection_is_dropped_or_the_turns_end() {
        let turns = turns().await;
        let (mut here, mut there) = pair().await;
        here.write_all(b"last words").await.unwrap();
        drop(here);
        let mut all = String::new();
        there.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "last words");
        let (mut here, mut there) = pair().await;
        here.write_all(b"more").await.unwrap();
        turns.abort();
        assert!(turns.await.unwrap_err().is_cancelled());
        let mut all = [0; 4];
        there.read_exact(&mut all).await.unwrap();
        here.write_all(b"at once").await.unwrap();
        assert_eq!(waiting(), 0);
    }

    #[tokio::test]
    async fn what_one_connection_could_not_write_goes_to_no_other() {
        let turns = turns().await;
        let (mut broken, there) = pair().await;
        there.set_zero_linger().unwrap();
        drop(there);
        broken.read.readable().await.unwrap();
        broken.write_all(b"a secret").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(broken.write_all(b"x").await.is_err());
        let (mut here, mut there) = pair().await;
        here.write_all(b"mine").await.unwrap();
        drop(here);
        let mut all = String::new();
        there.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "mine");
        turns.abort();
    }

    #[tokio::test]
    async fn any_number_of_last_words_is_written() {
        let turns = turns().await;
        let mut pairs = Vec::new();
        for _ in 0..300 {
            pairs.push(pair().await);
        }
        let mut theres = Vec::new();
        for (mut here, there) in pairs {
            tokio::task::unconstrained(here.write_all(b"last words")).await.unwrap();
            theres.push(there);
        }
        for mut there in theres {
            let mut all = String::new();
            there.read_to_string(&mut all).await.unwrap();
            assert_eq!(all, "last words");
        }
        turns.abort();
    }

    #[tokio::test]
    async fn who_waits_is_woken_though_the_end_of_a_turn_wrote_the_rest() {
        let turns = turns().await;
        let (mut here, mut there) = pair().await;
        let (mut other, _there) = pair().await;
        let large = vec![0; 64 * 1024];
        while tokio::time::timeout(Duration::from_millis(50), here.write_all(&large)).await.is_ok()
        {
        }
        here.write_all(b"stuck").await.unwrap();
        tokio::task::yield_now().await;
        let waiting = tokio::spawn(async move {
            here.flush().await.unwrap();
            here.write_all(b"and done").await.unwrap();
        });
        tokio::task::yield_now().await;
        // Another turn, whose end asks the socket once more.
        other.write_all(b"x").await.unwrap();
        tokio::task::yield_now().await;
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            there.read_to_end(&mut all).await.unwrap();
            all
        });
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        assert!(reading.await.unwrap().ends_with(b"stuckand done"));
        turns.abort();
    }

    #[tokio::test]
    async fn without_turns_a_write_is_a_write() {
        let (mut here, mut there) = pair().await;
        here.write_all(b"x").await.unwrap();
        assert_eq!(waiting(), 0);
        assert_eq!(there.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_holds_no_socket_that_was_dropped() {
        let turns = turns().await;
        let (mut here, there) = pair().await;
        // Fills the system's buffers, so that the next small write sticks.
        let large = vec![0; 64 * 1024];
        while tokio::time::timeout(Duration::from_millis(50), here.write_all(&large)).await.is_ok()
        {
        }
        let out = Arc::downgrade(&here.out);
        here.write_all(b"stuck").await.unwrap_or_default();
        tokio::task::yield_now().await;
        drop(here);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(out.upgrade().is_none());
        drop(there);
        turns.abort();
    }
}
