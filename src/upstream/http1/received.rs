//! A response's body, read from the connection that it comes on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Http1, not_sent};
use crate::body::Body;
use crate::error::{BoxError, Error, Kind};
use crate::http1::{Incoming, Read, Stopped};
use crate::upstream::Origin;

/// Reads the body, and sends what is left of the request beside that. The
/// connection goes back to the pool at the end.
pub(super) struct Received {
    http1: Option<Box<Http1>>,
    incoming: Incoming,
    /// The part of the request's body that is still to be sent.
    upload: Option<Body>,
    keep_alive: bool,
    origin: Arc<Origin>,
    failed: Option<Error>,
}

impl Received {
    /// The body of a response whose head was just read.
    pub(super) fn body(
        mut http1: Box<Http1>,
        mut incoming: Incoming,
        keep_alive: bool,
        upload: Option<Body>,
        origin: Arc<Origin>,
    ) -> Body {
        let here = match &incoming {
            Incoming::Length(length) => {
                usize::try_from(*length).ok().filter(|length| *length <= http1.inbox.bytes.len())
            }
            Incoming::Chunked(_) | Incoming::UntilClose => None,
        };
        // A small body mostly comes with its head.
        let whole = here.map(|length| {
            incoming = Incoming::Length(0);
            http1.inbox.bytes.split_to(length).freeze()
        });
        let mut received =
            Self { http1: Some(http1), incoming, upload, keep_alive, origin, failed: None };
        match whole {
            Some(bytes) => {
                received.release();
                Body::from(bytes)
            }
            None => Body::new(received),
        }
    }

    /// The response is whole: the connection is free for the next exchange.
    fn release(&mut self) {
        let Some(mut http1) = self.http1.take() else { return };
        // Bytes behind the response are nobody's.
        if !self.keep_alive || !http1.inbox.bytes.is_empty() {
            return;
        }
        let Some(mut upload) = self.upload.take() else {
            self.origin.pool().put(http1);
            return;
        };
        // The origin answered before it had the whole request.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let origin = self.origin.clone();
        runtime.spawn(async move {
            let patience = origin.timeouts().idle_body;
            let sent =
                std::future::poll_fn(|cx| http1.outgoing.poll(&mut http1.stream, &mut upload, cx));
            if let Ok(Ok(())) = tokio::time::timeout(patience, sent).await {
                origin.pool().put(http1);
            }
        });
    }

    /// Sends more of the request, if there is any.
    fn drive_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let (Some(upload), Some(http1)) = (&mut self.upload, &mut self.http1) else {
            return Ok(());
        };
        match http1.outgoing.poll(&mut http1.stream, upload, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            // The origin need not take it all to answer.
            Poll::Ready(Err(Stopped::Connection(_))) => self.keep_alive = false,
            Poll::Ready(Err(stopped)) => return Err(not_sent(stopped)),
        }
        self.upload = None;
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        self.drive_upload(cx)?;
        let Some(http1) = &mut self.http1 else { return Poll::Ready(Ok(None)) };
        loop {
            match self.incoming.read(&mut http1.inbox.bytes) {
                Ok(Read::Frame(frame)) => return Poll::Ready(Ok(Some(frame))),
                Ok(Read::End) => return Poll::Ready(Ok(None)),
                Ok(Read::More) => {}
                Err(invalid) => {
                    return Poll::Ready(Err(Error::new(Kind::ResponseIncomplete).because(invalid)));
                }
            }
            let more = ready!(http1.inbox.poll_fill(&mut http1.stream, cx));
            let broken_off = || Error::new(Kind::ResponseIncomplete);
            match more {
                Ok(0) if self.incoming.may_end() => return Poll::Ready(Ok(None)),
                Ok(0) => {
                    let detail = "the origin closed the connection in the midst of a body";
                    return Poll::Ready(Err(broken_off().detail(detail)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(broken_off().because(error))),
            }
        }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        match ready!(self.poll_read(cx)) {
            Ok(frame) => {
                if frame.is_none() || self.incoming.is_over() {
                    self.release();
                }
                Poll::Ready(frame.map(Ok))
            }
            Err(error) => {
                self.http1 = None;
                self.failed = Some(error);
                // What came before has not been written yet; it goes out first.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.http1.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.incoming {
            Incoming::Length(left) => SizeHint::with_exact(left),
            Incoming::Chunked(_) | Incoming::UntilClose => SizeHint::default(),
        }
    }
}
