//! One HTTP/2 connection to an origin: how many streams it carries, and whether
//! it may carry another.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::set::Dialling;
use crate::error::{Error, Kind, Resend};
use crate::upstream::UpstreamH2;
use crate::upstream::dns::Address;
use crate::upstream::http1::MAX_HEAD;
use crate::upstream::stream::Stream;

/// What may lie in one stream's send buffer: what is read of a client ahead of a
/// slow origin.
pub(in crate::upstream) const SEND_BUFFER: usize = 128 * 1024;

/// A connection that requests share.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    /// The most streams that we open at once, whatever the origin allows.
    max_streams: usize,
    streams: AtomicUsize,
    /// When the last stream ended.
    used: Mutex<Instant>,
    /// Whether the origin's SETTINGS have come.
    settled: AtomicBool,
    /// Whether it takes no new stream: it is broken, or was told to go away.
    retired: AtomicBool,
    /// Which of a name's addresses it leads to, if a name it was.
    address: Option<Arc<Address>>,
}

/// Room for one stream, taken until the last clone is dropped.
pub(in crate::upstream) struct Lease(Arc<Connection>);

impl Connection {
    /// Whether it takes no new stream any more.
    pub(super) fn is_retired(&self) -> bool {
        // A GOAWAY is known to the sender before the driver has told anybody.
        let closing = || {
            let mut cx = Context::from_waker(Waker::noop());
            matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
        };
        let astray = || self.address.as_ref().is_some_and(|address| address.is_gone());
        self.retired.load(Ordering::Relaxed) || astray() || closing()
    }

    /// The streams that it may carry at once.
    fn room(&self) -> usize {
        if !self.settled.load(Ordering::Acquire) {
            // The request that it was made for goes ahead (RFC 9113 §3.4); what
            // more is allowed is not known yet.
            return 1;
        }
        self.sender.current_max_send_streams().min(self.max_streams)
    }

    /// Room for one more stream.
    pub(super) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let room = self.room();
        let one_more = |streams: usize| (streams < room).then_some(streams + 1);
        self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Lease(self.clone()))
    }

    /// Whether it could take another stream. Taken is room under the lock of its
    /// set only, so that what is there remains.
    pub(super) fn has_room(&self) -> bool {
        self.streams.load(Ordering::Relaxed) < self.room()
    }

    /// Whether it carries nothing.
    fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0
    }

    /// Whether it is broken, or carried nothing for `timeout`.
    pub(super) fn is_stale(&self, now: Instant, timeout: Duration) -> bool {
        let unused = || now.saturating_duration_since(*self.used.lock()) >= timeout;
        (self.is_idle() && unused()) || self.is_retired()
    }
}

impl Lease {
    /// What to open the stream with.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.0.sender.clone()
    }

    /// No new stream is opened on this connection; what is under way is finished.
    pub(super) fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.used.lock() = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Speaks HTTP/2 on a stream that was just connected. The lease is the first;
/// who waits for `dialling` is let in when the origin has said how many may be.
///
/// # Errors
///
/// The connection preface could not be written.
pub(in crate::upstream) async fn connect(
    stream: Stream,
    settings: &UpstreamH2,
    dialling: Dialling,
) -> Result<Lease, Error> {
    let address = stream.address.clone();
    let (sender, connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .initial_max_send_streams(settings.max_concurrent_streams)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| {
            Error::new(Kind::ConnectionTerminated)
                .detail("the HTTP handshake failed")
                .because(error)
                .resend(Resend::Safe)
        })?;
    let shared = Arc::new(Connection {
        sender,
        max_streams: settings.max_concurrent_streams,
        streams: AtomicUsize::new(1),
        used: Mutex::new(Instant::now()),
        settled: AtomicBool::new(false),
        retired: AtomicBool::new(false),
        address,
    });
    dialling.connected(shared.clone());
    tokio::spawn(drive(connection, Arc::downgrade(&shared), dialling, *settings));
    Ok(Lease(shared))
}

/// Moves the connection's frames until it is over. It holds no handle on the
/// connection: once nobody has one, h2 ends it.
async fn drive(
    mut connection: h2::client::Connection<Stream, Bytes>,
    shared: Weak<Connection>,
    dialling: Dialling,
    settings: UpstreamH2,
) {
    let pings = connection.ping_pong();
    let watched = watch(pings, &shared, dialling, &settings);
    tokio::select! {
        biased;
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to an origin ended");
            }
        }
        () = watched => tracing::debug!("an origin does not answer pings; its connection is closed"),
    }
    if let Some(shared) = shared.upgrade() {
        shared.retired.store(true, Ordering::Relaxed);
    }
}

/// Ends when the origin leaves a ping without an answer. The first is sent at
/// once: its answer comes after the origin's SETTINGS (RFC 9113 §3.4).
async fn watch(
    pings: Option<PingPong>,
    shared: &Weak<Connection>,
    dialling: Dialling,
    settings: &UpstreamH2,
) {
    // h2 gives it out once, and it was asked once.
    let Some(mut pings) = pings else { return std::future::pending().await };
    let answers = async |pings: &mut PingPong| {
        matches!(timeout(settings.ping_timeout, pings.ping(Ping::opaque())).await, Ok(Ok(_)))
    };
    if !answers(&mut pings).await {
        return;
    }
    if let Some(shared) = shared.upgrade() {
        shared.settled.store(true, Ordering::Release);
        dialling.settled(shared.room());
    }
    loop {
        sleep(settings.ping_interval).await;
        let busy = shared.upgrade().is_some_and(|shared| !shared.is_idle());
        if busy && !answers(&mut pings).await {
            return;
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}
