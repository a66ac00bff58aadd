//! A response's body, read from its stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::connection::Lease;
use super::outgoing::retain_trailers;
use crate::error::{BoxError, Error, Kind};

/// Reads a stream to its end. Whatever else ends it is an error, so that no part
/// of a body passes for the whole.
pub(super) struct Received {
    stream: RecvStream,
    stage: Stage,
    /// The bytes still to come, if they were announced; h2 holds the origin to it.
    left: Option<u64>,
    /// What is left of the request is being sent.
    upload: Option<Upload>,
    /// Given back at the end, or with the stream.
    lease: Option<Arc<Lease>>,
}

/// The task that sends what is left of a request.
pub(super) struct Upload {
    task: AbortHandle,
    /// How long that may take once the response is whole.
    patience: Duration,
}

enum Stage {
    Data,
    Trailers,
    Over,
    Failed(Option<Error>),
}

impl Upload {
    pub(super) fn new(task: AbortHandle, patience: Duration) -> Self {
        Self { task, patience }
    }

    /// The response is whole. The rest of the request may still be wanted, but an
    /// origin that takes none of it would keep the client, too, for good.
    pub(super) fn finish(self) {
        if self.task.is_finished() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(self.patience).await;
                self.task.abort();
            });
        }
    }
}

impl Received {
    pub(super) fn new(
        stream: RecvStream,
        left: Option<u64>,
        upload: Option<Upload>,
        lease: Arc<Lease>,
    ) -> Self {
        Self { stream, stage: Stage::Data, left, upload, lease: Some(lease) }
    }

    fn complete(&mut self) {
        self.stage = Stage::Over;
        if let Some(upload) = self.upload.take() {
            upload.finish();
        }
        self.lease = None;
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, h2::Error>> {
        loop {
            match self.stage {
                Stage::Data => match ready!(self.stream.poll_data(cx)).transpose()? {
                    Some(data) => {
                        // It can fail only if more is released than was received.
                        let _released = self.stream.flow_control().release_capacity(data.len());
                        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                        if self.stream.is_end_stream() {
                            self.complete();
                        }
                        return Poll::Ready(Ok(Some(Frame::data(data))));
                    }
                    None => self.stage = Stage::Trailers,
                },
                Stage::Trailers => {
                    let trailers = ready!(self.stream.poll_trailers(cx))?;
                    self.complete();
                    return Poll::Ready(Ok(trailers.map(|mut trailers| {
                        retain_trailers(&mut trailers, |_| true);
                        Frame::trailers(trailers)
                    })));
                }
                Stage::Over | Stage::Failed(_) => return Poll::Ready(Ok(None)),
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
        if let Stage::Failed(error) = &mut self.stage {
            return Poll::Ready(error.take().map(|error| Err(error.into())));
        }
        match ready!(self.poll_read(cx)) {
            Ok(frame) => Poll::Ready(frame.map(Ok)),
            Err(error) => {
                let error = Error::new(Kind::ResponseIncomplete).because(error);
                self.stage = Stage::Failed(Some(error));
                // What came before has not been written yet; it goes out first.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.stage {
            Stage::Over => true,
            Stage::Data | Stage::Trailers => self.stream.is_end_stream(),
            Stage::Failed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // Nobody wants the response: the stream is reset once nobody sends, either.
        if let Some(upload) = &self.upload {
            upload.task.abort();
        }
    }
}
