//! A request's body on its way into a stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::SendStream;
use http::HeaderName;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use crate::body::Body;
use crate::error::{BoxError, Error, Kind, cause_of};
use crate::http1::may_trail;

/// How much of a body is kept until the response begins, so that a request the
/// origin never looked at can be sent again.
const KEPT: usize = 64 * 1024;

/// What a frame takes beside its bytes: a body in parts of one byte each takes a
/// hundred times as much room as its length says.
const FRAME: usize = 128;

/// Sends a body, as fast as the origin takes it.
pub(super) struct Outgoing {
    stream: SendStream<Bytes>,
    body: Body,
    /// The trailer fields that the head announces: no others are sent, since those
    /// that nobody may bring along are not announced any more.
    announced: Vec<HeaderName>,
    kept: Kept,
    over: bool,
    /// Whether nothing is sent yet: the client waits to be told to go on.
    held: bool,
    /// When the body last moved.
    last: Instant,
    /// Whether it is the client that is waited for.
    waiting: bool,
}

/// The frames sent so far, unless they were too many.
enum Kept {
    All(VecDeque<Frame<Bytes>>, usize),
    TooMany,
}

/// What was sent of a body, and the rest of it.
struct Again {
    sent: VecDeque<Frame<Bytes>>,
    rest: Body,
}

impl Outgoing {
    /// `over` says that the body was known to be empty, `held` that it is not to be
    /// sent before the origin calls for it.
    pub(super) fn new(
        stream: SendStream<Bytes>,
        body: Body,
        announced: Vec<HeaderName>,
        over: bool,
        held: bool,
    ) -> Self {
        let kept = Kept::All(VecDeque::new(), 0);
        Self { stream, body, announced, kept, over, held, last: Instant::now(), waiting: false }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// The body may be sent.
    pub(super) fn go_on(&mut self) {
        self.held = false;
        self.last = Instant::now();
    }

    /// Since when the origin is waited for; `None` while it is the client.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        (!self.waiting).then_some(self.last)
    }

    /// Sends what there is. Ready when there is no more to send: it was all sent,
    /// or the origin wants no more of it, which its response will explain.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.over {
            if self.held {
                return Poll::Pending;
            }
            // How large the next frame will be, nobody knows.
            self.stream.reserve_capacity(1);
            self.waiting = false;
            if self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => break,
                }
            }
            if self.stream.poll_reset(cx).is_ready() {
                break;
            }
            let polled = Pin::new(&mut self.body).poll_frame(cx);
            self.waiting = polled.is_pending();
            let sent = match ready!(polled) {
                Some(Ok(frame)) => self.send(frame),
                Some(Err(error)) => {
                    self.over = true;
                    self.stream.send_reset(h2::Reason::CANCEL);
                    // A client that breaks off leaves an error that is not ours.
                    let kind = cause_of::<Error>(&*error);
                    let kind = kind.map_or(Kind::RequestBodyAborted, Error::kind);
                    return Poll::Ready(Err(Error::new(kind).because(error)));
                }
                None => {
                    self.over = true;
                    self.stream.send_data(Bytes::new(), true)
                }
            };
            self.last = Instant::now();
            if sent.is_err() {
                break;
            }
        }
        self.over = true;
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, frame: Frame<Bytes>) -> Result<(), h2::Error> {
        match frame.into_data() {
            Ok(data) => {
                self.over = self.body.is_end_stream();
                if data.is_empty() && !self.over {
                    return Ok(());
                }
                self.kept.add(data.len(), || Frame::data(data.clone()));
                self.stream.send_data(data, self.over)
            }
            Err(frame) => {
                self.over = true;
                let mut trailers = frame.into_trailers().unwrap_or_default();
                retain_trailers(&mut trailers, |name| self.announced.contains(name));
                self.kept.add(0, || Frame::trailers(trailers.clone()));
                self.stream.reserve_capacity(0);
                self.stream.send_trailers(trailers)
            }
        }
    }

    /// From here on the request cannot be sent again.
    pub(super) fn forget(&mut self) {
        self.kept = Kept::TooMany;
    }

    /// The body as it was before anything was sent, if enough of it was kept.
    pub(super) fn into_whole(self) -> Option<Body> {
        match self.kept {
            Kept::All(sent, _) if sent.is_empty() => Some(self.body),
            Kept::All(sent, _) => Some(Body::new(Again { sent, rest: self.body })),
            Kept::TooMany => None,
        }
    }
}

impl Kept {
    fn add(&mut self, bytes: usize, frame: impl FnOnce() -> Frame<Bytes>) {
        let Self::All(frames, total) = self else { return };
        *total += bytes + FRAME;
        if *total > KEPT {
            *self = Self::TooMany;
        } else {
            frames.push_back(frame());
        }
    }
}

/// Takes out what has no place in a trailer section (RFC 9110 §6.5.1), and what is
/// not `wanted` there.
pub(super) fn retain_trailers(
    trailers: &mut http::HeaderMap,
    wanted: impl Fn(&HeaderName) -> bool,
) {
    let stays = |name: &HeaderName| may_trail(name) && wanted(name);
    if trailers.keys().all(stays) {
        return;
    }
    let wrong: Vec<_> = trailers.keys().filter(|name| !stays(name)).cloned().collect();
    for name in wrong {
        trailers.remove(name);
    }
}

impl http_body::Body for Again {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.sent.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sent.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let sent: usize = self.sent.iter().filter_map(|f| Some(f.data_ref()?.remaining())).sum();
        let (sent, rest) = (sent as u64, self.rest.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(sent));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(sent)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_body_that_was_begun_is_whole_again() {
        let mut kept = Kept::All(VecDeque::new(), 0);
        kept.add(2, || Frame::data(Bytes::from_static(b"ab")));
        let Kept::All(sent, _) = kept else { panic!("it was not kept") };
        let body = Body::new(Again { sent, rest: Body::from("cde") });
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcde");
    }

    #[test]
    fn no_more_is_kept_than_is_worth_it() {
        let mut kept = Kept::All(VecDeque::new(), 0);
        kept.add(KEPT - FRAME, || Frame::data(Bytes::new()));
        assert!(matches!(kept, Kept::All(..)));
        kept.add(1, || Frame::data(Bytes::new()));
        assert!(matches!(kept, Kept::TooMany));
        let mut small = Kept::All(VecDeque::new(), 0);
        for _ in 0..KEPT / FRAME {
            small.add(1, || Frame::data(Bytes::from_static(b"x")));
        }
        assert!(matches!(small, Kept::TooMany), "each takes more than its byte");
    }
}
