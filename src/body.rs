//! The one body type that travels both ways, and what may be tied to it.
//!
//! A [`Body`] streams: it is never gathered. It can carry an idle timeout, a
//! byte limit, and [`Guard`]s that see every frame and live exactly as long as
//! the body does, which is how permits, counters and the access log know the
//! true end of an exchange.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::error::{BoxError, Error, Kind};

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
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

struct IdleTimeout {
    after: Duration,
    kind: Kind,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whether the body was asked for more, and nothing had come yet: while nobody
    /// asks, it is not the sender that is silent.
    waiting: bool,
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
    fn data(&mut self, bytes: usize);
    fn waiting(&mut self);
    fn end(&mut self, end: End);
}

impl<G: Guard> Chain for Link<G> {
    fn data(&mut self, bytes: usize) {
        self.guard.data(bytes);
        if let Some(next) = &mut self.next {
            next.data(bytes);
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

    fn from_frames(frames: Frames) -> Self {
        Self { frames, idle: None, limit: u64::MAX, guards: None, ended: false }
    }

    /// Fails the body with `kind` when no frame comes for `after`.
    #[must_use]
    pub fn with_idle_timeout(mut self, after: Duration, kind: Kind) -> Self {
        self.idle = Some(IdleTimeout { after, kind, sleep: None, waiting: false });
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

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.frames {
            Frames::Empty => Poll::Ready(None),
            Frames::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Frames::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Frames::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
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
            Frames::Incoming(body) => http_body::Body::is_end_stream(body),
            Frames::Boxed(body) => http_body::Body::is_end_stream(body),
        }
    }
}

impl IdleTimeout {
    /// Ready once nothing has come for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let after = self.after;
        let waits_already = std::mem::replace(&mut self.waiting, true);
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if !waits_already {
                    sleep.as_mut().reset(Instant::now() + after);
                }
                sleep
            }
            None => self.sleep.insert(Box::pin(tokio::time::sleep(after))),
        };
        sleep.as_mut().poll(cx)
    }

    fn disarm(&mut self) {
        self.waiting = false;
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
                Some(Err(Error::new(idle.kind).into()))
            }
            Poll::Ready(polled) => polled,
        };
        if let Some(idle) = &mut this.idle {
            idle.disarm();
        }
        let frame = match polled {
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
        if let Some(data) = frame.data_ref() {
            let bytes = data.remaining();
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
                guards.data(bytes);
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
            Frames::Incoming(body) => http_body::Body::size_hint(body),
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
            .field("idle_timeout", &self.idle.as_ref().map(|idle| idle.after))
            .field("limit", &(self.limit != u64::MAX).then_some(self.limit))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use parking_lot::Mutex;
    use std::convert::Infallible;
    use std::sync::Arc;

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

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_asks_for_more_is_not_silent() {
        let first = futures_util::stream::iter([
            Ok::<_, Infallible>(Frame::data("ab".into())),
            Ok(Frame::data("cd".into())),
        ]);
        let slow = futures_util::stream::unfold(first, |mut frames| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((futures_util::StreamExt::next(&mut frames).await?, frames))
        });
        let after = Duration::from_secs(60);
        let body = Body::new(StreamBody::new(slow));
        let mut body = body.with_idle_timeout(after, Kind::RequestBodyTimeout);
        assert!(body.frame().await.unwrap().is_ok());
        // Whoever reads it is busy for longer than the sender may be silent.
        tokio::time::sleep(2 * after).await;
        assert!(body.frame().await.unwrap().is_ok());
    }

    #[test]
    fn our_own_body_is_not_boxed_again() {
        let body = Body::new(Body::from("x"));
        assert!(matches!(body.frames, Frames::Full(_)));
    }
}
