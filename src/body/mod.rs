//! The one body type that travels both ways, and what may be tied to it.
//!
//! A [`Body`] streams: it is never gathered. It can carry an idle timeout, a
//! least rate, a byte limit, and [`Guard`]s that see every frame and live exactly as long as
//! the body does, which is how permits, counters and the access log know the
//! true end of an exchange.

mod idle;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

use crate::error::{BoxError, Error, Kind};
use crate::pace::MinRate;
use idle::IdleTimeout;

/// A streaming message body. Kept small: it is moved from layer to layer.
pub struct Body {
    frames: Frames,
    idle: Option<IdleTimeout>,
    /// `u64::MAX` where there is none.
    limit: u64,
    guards: Option<Box<dyn Chain>>,
    ended: bool,
}

enum Frames {
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    /// That of one stream among others, which hyper takes for ended when the peer
    /// resets it with `NO_ERROR`, whatever is still to come.
    Stream(Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

/// How a body came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Every frame was taken.
    Complete,
    /// The body failed, for this reason.
    Failed(Kind),
    /// Whoever read it stopped before the end.
    Dropped,
}

/// Something that watches a body and is dropped when the body is.
pub trait Guard: Send + 'static {
    /// `bytes` more bytes were taken.
    fn data(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// These are the bytes, which may be tied to something that lives for as long
    /// as anybody has them.
    fn hold(&mut self, data: &mut Bytes) {
        let _ = data;
    }

    /// The body was asked for more, and nothing had come yet.
    fn waiting(&mut self) {}

    /// The body is over. Called once.
    fn end(&mut self, end: End) {
        let _ = end;
    }
}

/// A guard and those that were tied before it.
struct Link<G> {
    guard: G,
    next: Option<Box<dyn Chain>>,
}

/// A [`Link`], whatever its guard.
trait Chain: Send {
    fn data(&mut self, data: &mut Bytes);
    fn waiting(&mut self);
    fn end(&mut self, end: End);
}

impl<G: Guard> Chain for Link<G> {
    fn data(&mut self, data: &mut Bytes) {
        self.guard.data(data.len());
        self.guard.hold(data);
        if let Some(next) = &mut self.next {
            next.data(data);
        }
    }

    fn waiting(&mut self) {
        self.guard.waiting();
        if let Some(next) = &mut self.next {
            next.waiting();
        }
    }

    fn end(&mut self, end: End) {
        self.guard.end(end);
        if let Some(next) = &mut self.next {
            next.end(end);
        }
    }
}

/// A guard that only holds a value until the body is over.
#[derive(Debug)]
pub struct Hold<T>(pub T);

impl<T: Send + 'static> Guard for Hold<T> {}

impl Body {
    /// A body of no bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::from_frames(Frames::Empty)
    }

    /// Takes any body; one of this type or of hyper's is not boxed.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut body = Some(body);
        let any: &mut dyn std::any::Any = &mut body;
        if let Some(same) = any.downcast_mut::<Option<Self>>() {
            return same.take().unwrap_or_default();
        }
        if let Some(incoming) = any.downcast_mut::<Option<Incoming>>() {
            return incoming.take().map(Self::from).unwrap_or_default();
        }
        match body {
            Some(body) => Self::from_frames(Frames::Boxed(body.map_err(Into::into).boxed_unsync())),
            None => Self::empty(),
        }
    }

    /// The body of a request that came on a stream of HTTP/2.
    #[must_use]
    pub fn of_stream(body: Incoming) -> Self {
        Self::from_frames(Frames::Stream(body))
    }

    fn from_frames(frames: Frames) -> Self {
        Self { frames, idle: None, limit: u64::MAX, guards: None, ended: false }
    }

    /// Fails the body with `kind` when no frame comes for `after`.
    #[must_use]
    pub fn with_idle_timeout(mut self, after: Duration, kind: Kind) -> Self {
        self.idle = Some(IdleTimeout::new(after, kind));
        self
    }

    /// Fails a body that has an idle timeout also when it comes more slowly than
    /// this. Who was fast may pause for as long as the idle timeout says.
    #[must_use]
    pub fn with_min_rate(mut self, rate: MinRate) -> Self {
        if let Some(idle) = &mut self.idle {
            idle.hold_to(rate);
        }
        self
    }

    /// Fails the body with [`Kind::RequestBodyTooLarge`] past `bytes` bytes.
    #[must_use]
    pub fn with_limit(mut self, bytes: u64) -> Self {
        self.limit = self.limit.min(bytes);
        self
    }

    /// Ties `guard` to this body.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Guard) -> Self {
        self.guards = Some(Box::new(Link { guard, next: self.guards.take() }));
        self
    }

    /// The same body without its bytes: what is tied to it sees it complete.
    #[must_use]
    pub fn emptied(mut self) -> Self {
        self.frames = Frames::Empty;
        self
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.frames {
            Frames::Empty => Poll::Ready(None),
            Frames::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Frames::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Frames::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Frames::Stream(body) => match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None if !http_body::Body::is_end_stream(body) => {
                    let detail = "the stream was reset in the midst of a body";
                    let error = Error::new(Kind::RequestBodyAborted).detail(detail);
                    Poll::Ready(Some(Err(error.into())))
                }
                frame => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            },
            Frames::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn finish(&mut self, end: End) {
        if !self.ended {
            self.ended = true;
            if let Some(guards) = &mut self.guards {
                guards.end(end);
            }
        }
    }

    fn inner_is_end_stream(&self) -> bool {
        match &self.frames {
            Frames::Empty => true,
            Frames::Full(bytes) => bytes.is_empty(),
            Frames::Incoming(body) | Frames::Stream(body) => http_body::Body::is_end_stream(body),
            Frames::Boxed(body) => http_body::Body::is_end_stream(body),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = match this.poll_inner(cx) {
            Poll::Pending => {
                if let Some(guards) = &mut this.guards {
                    guards.waiting();
                }
                let Some(idle) = &mut this.idle else { return Poll::Pending };
                ready!(idle.poll(cx));
                Some(Err(Error::new(idle.kind()).into()))
            }
            Poll::Ready(polled) => polled,
        };
        let mut frame = match polled {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                this.finish(End::Failed(kind_of(&*error)));
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                this.finish(End::Complete);
                return Poll::Ready(None);
            }
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if let Some(idle) = &mut this.idle {
            idle.moved(bytes);
        }
        if let Some(data) = frame.data_mut() {
            if this.limit != u64::MAX {
                match this.limit.checked_sub(bytes as u64) {
                    Some(left) => this.limit = left,
                    None => {
                        let kind = Kind::RequestBodyTooLarge;
                        this.frames = Frames::Empty;
                        this.finish(End::Failed(kind));
                        return Poll::Ready(Some(Err(Error::new(kind).into())));
                    }
                }
            }
            if let Some(guards) = &mut this.guards {
                guards.data(data);
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner_is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.frames {
            Frames::Empty => SizeHint::with_exact(0),
            Frames::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Frames::Incoming(body) | Frames::Stream(body) => http_body::Body::size_hint(body),
            Frames::Boxed(body) => http_body::Body::size_hint(body),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // A server stops reading once it has seen all the bytes it announced,
        // and never reads a body that it knows to be empty.
        let end = if self.inner_is_end_stream() { End::Complete } else { End::Dropped };
        self.finish(end);
    }
}

/// The kind of a body's error; one that is not ours came from the other side
/// breaking off.
fn kind_of(error: &(dyn std::error::Error + 'static)) -> Kind {
    crate::error::cause_of::<Error>(error).map_or(Kind::ResponseIncomplete, Error::kind)
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Self::from_frames(Frames::Incoming(body))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::from_frames(if bytes.is_empty() { Frames::Empty } else { Frames::Full(bytes) })
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size_hint", &http_body::Body::size_hint(self))
            .field("idle_timeout", &self.idle.as_ref().map(IdleTimeout::after))
            .field("limit", &(self.limit != u64::MAX).then_some(self.limit))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use http_body_util::StreamBody;
    use parking_lot::Mutex;
    use std::convert::Infallible;
    use std::sync::Arc;
    use tokio::time::Instant;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<(usize, Vec<End>)>>);

    impl Guard for Seen {
        fn data(&mut self, bytes: usize) {
            self.0.lock().0 += bytes;
        }
        fn end(&mut self, end: End) {
            self.0.lock().1.push(end);
        }
    }

    fn chunks(chunks: &'static [&'static str]) -> Body {
        let frames =
            chunks.iter().map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::from(*chunk))));
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn silent() -> Body {
        let frames = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        Body::new(StreamBody::new(frames))
    }

    #[tokio::test]
    async fn guards_count_the_bytes_and_see_one_end() {
        let seen = Seen::default();
        let body = chunks(&["ab", "cde"]).with_guard(seen.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcde");
        assert_eq!(*seen.0.lock(), (5, vec![End::Complete]));
    }

    #[tokio::test]
    async fn a_body_dropped_halfway_says_so() {
        let seen = Seen::default();
        let mut body = chunks(&["ab", "cde"]).with_guard(seen.clone());
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(*seen.0.lock(), (2, vec![End::Dropped]));
    }

    #[test]
    fn a_body_known_to_be_empty_is_complete_without_being_read() {
        let seen = Seen::default();
        drop(Body::empty().with_guard(seen.clone()));
        assert_eq!(seen.0.lock().1, [End::Complete]);
    }

    #[test]
    fn a_body_that_is_emptied_is_complete_without_its_bytes() {
        let seen = Seen::default();
        let body = chunks(&["ab", "cde"]).with_guard(seen.clone()).emptied();
        assert!(http_body::Body::is_end_stream(&body));
        drop(body);
        assert_eq!(*seen.0.lock(), (0, vec![End::Complete]));
    }

    #[tokio::test]
    async fn a_chunked_body_over_the_limit_fails_before_the_excess_is_passed_on() {
        let mut body = chunks(&["ab", "cde"]).with_limit(4);
        assert!(body.frame().await.unwrap().is_ok());
        let error = body.frame().await.unwrap().unwrap_err();
        let error: &Error = crate::error::cause_of(&*error).unwrap();
        assert_eq!(error.kind(), Kind::RequestBodyTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_fails_after_the_idle_timeout() {
        let seen = Seen::default();
        let mut body = silent()
            .with_idle_timeout(Duration::from_secs(60), Kind::RequestBodyTimeout)
            .with_guard(seen.clone());
        let before = Instant::now();
        assert!(body.frame().await.unwrap().is_err());
        assert_eq!(before.elapsed().as_secs(), 60);
        assert_eq!(seen.0.lock().1, [End::Failed(Kind::RequestBodyTimeout)]);
    }

    /// A body whose bytes come as many seconds after one another as is said.
    fn dribbling(gaps: &'static [u64]) -> Body {
        let frames = futures_util::stream::iter(gaps).then(|gap| async {
            tokio::time::sleep(Duration::from_secs(*gap)).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))
        });
        let rate = MinRate { grace: Duration::from_secs(5), ..MinRate::DEFAULT };
        Body::new(StreamBody::new(Box::pin(frames)))
            .with_idle_timeout(Duration::from_secs(60), Kind::RequestBodyTimeout)
            .with_min_rate(rate)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_byte_by_byte_is_too_slow() {
        let before = Instant::now();
        let error = dribbling(&[2; 60]).collect().await.unwrap_err();
        let error: &Error = crate::error::cause_of(&*error).unwrap();
        assert_eq!(error.kind(), Kind::RequestBodyTimeout);
        assert_eq!(before.elapsed().as_secs(), 5);
        assert!(dribbling(&[2, 2]).collect().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_time_counts_in_which_the_body_is_waited_for() {
        let mut body = dribbling(&[1, 0, 0, 0, 1]);
        for _ in 0..5 {
            // Whoever reads it takes longer than any limit.
            tokio::time::advance(Duration::from_secs(100)).await;
            body.frame().await.unwrap().unwrap();
        }
    }

    #[test]
    fn our_own_body_is_not_boxed_again() {
        let body = Body::new(Body::from("x"));
        assert!(matches!(body.frames, Frames::Full(_)));
    }
}
