//! The watch over the frames of a client.
//!
//! h2 answers a PING or SETTINGS frame as soon as it can, takes PRIORITY, unknown
//! frames and window updates of one byte without an end, and forgets a request
//! that was reset as soon as it has seen it. None of that costs it memory, but
//! work, for us and, with resets, for the origin. So the heads of all frames are
//! counted as they are read, against what the connection is used for. Nothing is
//! copied or held back.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::allowance::Allowance;
use super::frames::{CONTINUATION, DATA, Frames, HEADERS, Head, RST_STREAM, enhance_your_calm};
use crate::serve::H2Settings;
use crate::serve::io::PREFACE;
use crate::serve::pulse::Pulse;

/// A client's connection whose frames are counted. What it reads is what was
/// sent, up to the frame that is one too many: that is an error.
#[derive(Debug)]
pub(super) struct FrameWatch<IO> {
    io: IO,
    pulse: Pulse,
    received: Frames,
    sent: Frames,
    allowed: Allowed,
}

#[derive(Debug)]
struct Allowed {
    control_frames: Allowance,
    resets: Allowance,
    /// The newest stream of the client.
    last_stream: u32,
    flood: Option<Flood>,
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum Flood {
    #[error("too_many_control_frames")]
    ControlFrames,
    #[error("too_many_resets")]
    Resets,
}

impl Allowed {
    fn count(&mut self, head: Head, pulse: &Pulse) {
        match head.kind {
            // h2 has limits for these: so many streams, fragments and small parts.
            DATA | CONTINUATION => {}
            HEADERS => self.last_stream = self.last_stream.max(head.stream),
            RST_STREAM => {
                if !self.resets.take(|| pulse.take_completed()) {
                    self.flood = Some(Flood::Resets);
                }
            }
            _ => {
                if !self.control_frames.take(|| pulse.take_earned()) {
                    self.flood = Some(Flood::ControlFrames);
                }
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> FrameWatch<IO> {
    pub(super) fn new(io: IO, settings: &H2Settings, pulse: Pulse) -> Self {
        let allowed = Allowed {
            control_frames: Allowance::new(settings.max_control_frames),
            resets: Allowance::new(settings.max_resets),
            last_stream: 0,
            flood: None,
        };
        let received = Frames::after(PREFACE.len());
        Self { io, pulse, received, sent: Frames::after(0), allowed }
    }

    /// Tells the client why, if that can be said at once: h2 takes the error for
    /// one of the socket, and says nothing.
    fn take_leave(&mut self, cx: &mut Context<'_>, flood: Flood) -> io::Error {
        if self.sent.are_whole() {
            let frame = enhance_your_calm(self.allowed.last_stream, &flood.to_string());
            if let Poll::Ready(Ok(written)) = Pin::new(&mut self.io).poll_write(cx, &frame) {
                self.sent.walk(frame.get(..written).unwrap_or_default(), |_| {});
                let _flushed_or_not = Pin::new(&mut self.io).poll_flush(cx);
            }
        }
        io::Error::other(flood)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for FrameWatch<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        this.received.walk(read, |head| this.allowed.count(head, &this.pulse));
        Poll::Ready(match this.allowed.flood {
            None => Ok(()),
            Some(flood) => {
                buf.set_filled(before);
                Err(this.take_leave(cx, flood))
            }
        })
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FrameWatch<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.sent.walk(buf.get(..written).unwrap_or(buf), |_| {});
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = buf.get(..left).unwrap_or(buf);
            self.sent.walk(part, |_| {});
            left -= part.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::ServeSettings;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0abcdefgh";
    const RESET: &[u8] = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08";
    const HEADERS_OF_9: &[u8] = b"\0\0\0\x01\x05\0\0\0\x09";

    fn watched(
        max_control_frames: u32,
        max_resets: u32,
    ) -> (DuplexStream, FrameWatch<DuplexStream>, Pulse) {
        let settings = H2Settings { max_control_frames, max_resets, ..H2Settings::default() };
        let (client, server) = tokio::io::duplex(64 * 1024);
        let pulse = Pulse::new(&ServeSettings::default());
        (client, FrameWatch::new(server, &settings, pulse.clone()), pulse)
    }

    async fn read(server: &mut FrameWatch<DuplexStream>, count: usize) -> io::Result<()> {
        server.read_exact(&mut vec![0; count]).await.map(drop)
    }

    async fn failure(server: &mut FrameWatch<DuplexStream>) -> io::Error {
        loop {
            match server.read(&mut [0; 4096]).await {
                Ok(count) => assert_ne!(count, 0, "it ended"),
                Err(error) => return error,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn control_frames_that_nothing_earned_end_the_connection_with_a_reason() {
        let (mut client, mut server, _) = watched(3, 1);
        client.write_all(PREFACE).await.unwrap();
        client.write_all(HEADERS_OF_9).await.unwrap();
        client.write_all(&PING.repeat(3)).await.unwrap();
        read(&mut server, PREFACE.len() + HEADERS_OF_9.len() + 3 * PING.len()).await.unwrap();
        client.write_all(PING).await.unwrap();
        let error = failure(&mut server).await;
        assert_eq!(error.to_string(), "too_many_control_frames");
        drop(server);
        let mut last = Vec::new();
        client.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, enhance_your_calm(9, "too_many_control_frames"));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_said_in_the_middle_of_a_frame() {
        let (mut client, mut server, _) = watched(1, 1);
        client.write_all(PREFACE).await.unwrap();
        let parts = [IoSlice::new(&PING[..4]), IoSlice::new(&PING[4..12])];
        assert_eq!(server.write_vectored(&parts).await.unwrap(), 12);
        client.write_all(&RESET.repeat(2)).await.unwrap();
        let error = failure(&mut server).await;
        assert_eq!(error.to_string(), "too_many_resets");
        drop(server);
        let mut last = Vec::new();
        client.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, PING[..12]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_connection_is_used_for_earns_more() {
        use crate::body::{End, Guard};
        use crate::serve::pulse::Lying;
        let (mut client, mut server, pulse) = watched(2, 2);
        client.write_all(PREFACE).await.unwrap();
        read(&mut server, PREFACE.len()).await.unwrap();
        for _ in 0..10 {
            client.write_all(&[PING, PING, RESET].concat()).await.unwrap();
            read(&mut server, 2 * PING.len() + RESET.len()).await.unwrap();
            let mut answered = Lying::new(pulse.begin(), None);
            answered.data(1);
            answered.end(End::Complete);
        }
        client.write_all(&RESET.repeat(3)).await.unwrap();
        assert_eq!(failure(&mut server).await.to_string(), "too_many_resets");
    }
}
