//! The body of a response while it is stored: whoever shares it reads from its
//! beginning, however much of it has come.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::disk::OnDisk;
use super::streamed::Streamed;
use crate::body::Body;
use crate::error::{BoxError, Error, Kind};

/// How much of a body that is not stored any more may lie between its origin and the
/// slowest of those who share it.
const WINDOW: usize = 256 * 1024;

/// A body, whole or on its way.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Whole(Bytes),
    Growing(Arc<Growing>),
    Disk(OnDisk),
}

/// A body that is on its way.
#[derive(Debug)]
pub(super) struct Growing {
    state: Mutex<State>,
    /// What the origin has announced.
    length: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// How many chunks were let go of.
    gone: usize,
    bytes: usize,
    /// Nothing is kept any more for those who come later.
    passing: bool,
    /// Nobody read it any more: no more of it comes to whoever would come now.
    left: bool,
    readers: Vec<Option<Place>>,
    end: Option<Result<(), Kind>>,
    filler: Option<Waker>,
}

/// Where one of the readers is.
#[derive(Debug)]
struct Place {
    next: usize,
    waker: Option<Waker>,
}

/// Reads a growing body.
#[derive(Debug)]
struct Reader {
    from: Arc<Growing>,
    place: usize,
    read: u64,
}

impl Content {
    /// The whole of it, from the beginning; `None` if the beginning is gone.
    pub(super) fn body(&self) -> Option<Body> {
        match self {
            Self::Whole(bytes) => Some(bytes.clone().into()),
            Self::Growing(growing) => growing.reader().map(Body::new),
            Self::Disk(body) => Some(Body::new(Streamed::of(body, 0..body.length()))),
        }
    }

    /// How long it is, once that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Growing(_) => None,
            Self::Disk(body) => Some(body.length()),
        }
    }

    /// These bytes of it; `None` while it comes.
    pub(super) fn part(&self, range: Range<u64>) -> Option<Body> {
        match self {
            Self::Whole(bytes) => {
                let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX).min(bytes.len());
                let (first, end) = (at(range.start), at(range.end));
                Some(bytes.slice(first..end.max(first)).into())
            }
            Self::Growing(_) => None,
            Self::Disk(body) => Some(Body::new(Streamed::of(body, range))),
        }
    }
}

impl Growing {
    pub(super) fn new(length: Option<u64>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), length })
    }

    fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state.lock();
        if state.gone > 0 || state.left {
            return None;
        }
        let free = state.readers.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            state.readers.push(None);
            state.readers.len() - 1
        });
        state.readers[place] = Some(Place { next: 0, waker: None });
        Some(Reader { from: self.clone(), place, read: 0 })
    }

    /// More has come.
    pub(super) fn push(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        state.bytes += bytes.len();
        state.chunks.push_back(bytes);
        state.wake();
        // Nobody may read any more.
        state.let_go();
    }

    /// It is over.
    pub(super) fn end(&self, end: Result<(), Kind>) {
        let mut state = self.state.lock();
        state.end = Some(end);
        state.wake();
    }

    /// From now on nothing is kept that everybody has read.
    pub(super) fn pass_on(&self) {
        let mut state = self.state.lock();
        state.passing = true;
        state.let_go();
    }

    /// Waits until those who share it have room for more; `false` if there are none, and
    /// then, of what is passed on, none come.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.readers.iter().all(Option::is_none) {
            // Under the lock that readers come under: whoever fills it may go away.
            state.left |= state.passing;
            return Poll::Ready(false);
        }
        if state.bytes <= WINDOW {
            return Poll::Ready(true);
        }
        state.filler = Some(cx.waker().clone());
        Poll::Pending
    }

    /// All that has come, in one piece, of memory of its own: the chunks may be parts
    /// of much longer buffers. Whoever reads on reads from that piece.
    pub(super) fn whole(&self) -> Bytes {
        let mut state = self.state.lock();
        let mut whole = BytesMut::with_capacity(state.bytes);
        for chunk in &state.chunks {
            whole.extend_from_slice(chunk);
        }
        let whole = whole.freeze();
        let mut at = 0;
        for chunk in &mut state.chunks {
            let end = at + chunk.len();
            *chunk = whole.slice(at..end);
            at = end;
        }
        whole
    }
}

impl State {
    fn wake(&mut self) {
        for place in self.readers.iter_mut().flatten() {
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
        }
    }

    fn let_go(&mut self) {
        if !self.passing {
            return;
        }
        let slowest = self.readers.iter().flatten().map(|place| place.next).min();
        let keep = slowest.unwrap_or(self.gone + self.chunks.len());
        while self.gone < keep {
            let Some(chunk) = self.chunks.pop_front() else { break };
            self.bytes -= chunk.len();
            self.gone += 1;
        }
        if (self.bytes <= WINDOW || slowest.is_none())
            && let Some(filler) = self.filler.take()
        {
            filler.wake();
        }
    }
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut state = this.from.state.lock();
        let (gone, end) = (state.gone, state.end);
        let State { chunks, readers, .. } = &mut *state;
        let Some(Some(place)) = readers.get_mut(this.place) else { return Poll::Ready(None) };
        if let Some(chunk) = chunks.get(place.next - gone) {
            let chunk = chunk.clone();
            place.next += 1;
            this.read += chunk.len() as u64;
            state.let_go();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(kind)) => Poll::Ready(Some(Err(Error::new(kind).into()))),
            None => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.from.state.lock();
        let place = state.readers.get(self.place).and_then(Option::as_ref);
        let read = place.is_none_or(|place| place.next == state.gone + state.chunks.len());
        state.end == Some(Ok(())) && read
    }

    fn size_hint(&self) -> SizeHint {
        match self.from.length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.read)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.from.state.lock();
        if let Some(place) = state.readers.get_mut(self.place) {
            *place = None;
        }
        state.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn text(bytes: &'static str) -> Bytes {
        Bytes::from_static(bytes.as_bytes())
    }

    async fn all(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn everybody_reads_all_of_it_whenever_they_come() {
        let growing = Growing::new(None);
        let content = Content::Growing(growing.clone());
        let early = tokio::spawn(all(content.body().unwrap()));
        tokio::task::yield_now().await;
        growing.push(text("ab"));
        let late = tokio::spawn(all(content.body().unwrap()));
        growing.push(text("cd"));
        growing.end(Ok(()));
        assert_eq!(early.await.unwrap(), "abcd");
        assert_eq!(late.await.unwrap(), "abcd");
        assert_eq!(all(content.body().unwrap()).await, "abcd");
        assert_eq!(growing.whole(), "abcd");
    }

    #[tokio::test]
    async fn a_body_that_fails_fails_for_all_of_them() {
        let growing = Growing::new(None);
        let mut body = Content::Growing(growing.clone()).body().unwrap();
        growing.push(text("ab"));
        growing.end(Err(Kind::ResponseIncomplete));
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn nobody_comes_to_a_body_that_everybody_has_left() {
        let growing = Growing::new(None);
        let content = Content::Growing(growing.clone());
        let room = || std::future::poll_fn(|cx| growing.poll_room(cx));
        assert!(!room().await);
        assert!(content.body().is_some(), "what is kept is for those who come later");
        growing.pass_on();
        let reader = content.body();
        assert!(reader.is_some() && room().await, "it goes on for whoever came in time");
        drop(reader);
        assert!(!room().await);
        assert!(content.body().is_none(), "nobody fills it");
    }

    #[tokio::test]
    async fn what_is_only_passed_on_waits_for_the_slowest_and_is_not_kept() {
        let growing = Growing::new(None);
        let content = Content::Growing(growing.clone());
        let (mut slow, fast) = (content.body().unwrap(), content.body().unwrap());
        let fast = tokio::spawn(all(fast));
        growing.push(Bytes::from(vec![0; WINDOW + 1]));
        tokio::task::yield_now().await;
        growing.pass_on();
        let room = || std::future::poll_fn(|cx| growing.poll_room(cx));
        let waits = tokio::time::timeout(std::time::Duration::from_millis(1), room()).await;
        assert!(waits.is_err(), "there is room although the slowest has read nothing");
        slow.frame().await.unwrap().unwrap();
        assert!(room().await);
        assert!(content.body().is_none(), "the beginning is still there");
        drop(slow);
        growing.end(Ok(()));
        assert_eq!(fast.await.unwrap().len(), WINDOW + 1);
        assert!(!room().await, "nobody reads, and it goes on");
    }
}
