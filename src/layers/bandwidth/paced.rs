//! A body that comes no faster than it may.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::bucket::Bucket;
use crate::body::Body;
use crate::error::BoxError;

pin_project! {
    /// Lets a body's bytes through at a steady rate. Frames that are longer than what may be
    /// sent are split; nothing is copied, and one frame is held at the most.
    pub(super) struct Paced {
        inner: Body,
        // What is left of a frame.
        rest: Bytes,
        bucket: Bucket,
        #[pin]
        sleep: Sleep,
        sleeping: bool,
    }
}

impl Paced {
    pub(super) fn new(inner: Body, rate: NonZeroU64, burst: u64) -> Self {
        let now = Instant::now();
        let (bucket, sleep) = (Bucket::new(rate, burst, now), sleep_until(now));
        Self { inner, rest: Bytes::new(), bucket, sleep, sleeping: false }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        while this.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut *this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => *this.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        loop {
            if *this.sleeping {
                ready!(this.sleep.as_mut().poll(cx));
                *this.sleeping = false;
            }
            let now = Instant::now();
            match this.bucket.take(this.rest.len(), now) {
                Ok(taken) => {
                    return Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(taken)))));
                }
                Err(wait) => {
                    this.sleep.as_mut().reset(now + wait);
                    *this.sleeping = true;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use http::HeaderMap;
    use http_body::Body as _;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;
    use std::time::Duration;

    fn paced(body: Body, rate: u64, burst: u64) -> Body {
        Body::new(Paced::new(body, NonZeroU64::new(rate).unwrap(), burst))
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_frame_comes_in_pieces_at_the_rate() {
        let begin = Instant::now();
        let text: Vec<u8> = (0..50_000_u32).map(|n| n as u8).collect();
        let mut body = paced(Bytes::from(text.clone()).into(), 10_000, 10_000);
        assert_eq!(body.size_hint().exact(), Some(50_000));
        let (mut got, mut pieces) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            got.extend_from_slice(&frame.unwrap().into_data().unwrap());
            assert_eq!(body.size_hint().exact(), Some(50_000 - got.len() as u64));
            pieces += 1;
        }
        assert_eq!(got, text);
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(4), "{took:?}");
        assert!(took < Duration::from_millis(4_300), "{took:?}");
        assert!((2..=201).contains(&pieces), "{pieces}");
        assert!(body.is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_and_failures_pass() {
        let frames = [Frame::data(Bytes::from_static(b"ab")), Frame::trailers(HeaderMap::new())];
        let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
        let mut body = paced(Body::new(StreamBody::new(frames)), 1, 1);
        let begin = Instant::now();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "b");
        assert!(begin.elapsed() >= Duration::from_secs(1));
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.frame().await.is_none());
        let broken = [Ok(Frame::data(Bytes::from_static(b"a"))), Err("broken")];
        let broken = futures_util::stream::iter(broken.map(|frame| frame.map_err(BoxError::from)));
        let mut body = paced(Body::new(StreamBody::new(broken)), 1, 1);
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_not_made_slower() {
        let frames = futures_util::stream::iter(0..5).then(|_| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))
        });
        let begin = Instant::now();
        let body = paced(Body::new(StreamBody::new(Box::pin(frames))), 1, 0);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "xxxxx");
        assert!(begin.elapsed() <= Duration::from_millis(5_100), "{:?}", begin.elapsed());
    }
}
