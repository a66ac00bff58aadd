//! The byte stream of a connection, as who speaks HTTP on it sees it: it takes
//! note of every read and write, and gives back first what was read ahead.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pulse::Pulse;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose reads and writes are noted.
#[derive(Debug)]
pub(super) struct Noted<IO> {
    io: IO,
    first: Bytes,
    pulse: Pulse,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Noted<IO> {
    pub(super) fn new(io: IO, pulse: Pulse) -> Self {
        Self { io, first: Bytes::new(), pulse }
    }

    /// Whether the client speaks HTTP/2 by prior knowledge. Has no deadline of
    /// its own.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        while self.first.len() < PREFACE.len() && PREFACE.starts_with(&self.first) {
            if poll_fn(|cx| self.poll_more(cx)).await? == 0 {
                break;
            }
        }
        Ok(self.first.starts_with(PREFACE))
    }

    /// Ready once there is something to read, or the end of it.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            ready!(self.poll_more(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes back what was read ahead.
    pub(super) fn give_back(&mut self, read: &[u8]) {
        if !read.is_empty() {
            self.first = joined(read, &self.first);
            self.pulse.received();
        }
    }

    /// Reads ahead by what a small head takes, and keeps it to be given back.
    /// The room for it is on the stack: a connection that waits has none.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0; 1024];
        let mut room = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut room))?;
        let read = room.filled();
        if !read.is_empty() {
            self.first = joined(&self.first, read);
            self.pulse.received();
        }
        Poll::Ready(Ok(read.len()))
    }

    fn noted(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.pulse.blocked(),
            Poll::Ready(written) => self.pulse.sent(*written.as_ref().unwrap_or(&0)),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Noted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            let some = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(some));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.received();
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Noted<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.noted(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.noted(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        match &flushed {
            Poll::Pending => self.pulse.blocked(),
            Poll::Ready(_) => self.pulse.sent(0),
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn joined(before: &[u8], after: &[u8]) -> Bytes {
    Bytes::from([before, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::ServeSettings;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn told(parts: &[&[u8]]) -> (bool, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Noted::new(server, Pulse::new(&ServeSettings::default()));
        let send = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let (http2, ()) = tokio::join!(server.speaks_http2(), send);
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        (http2.unwrap(), all)
    }

    #[tokio::test]
    async fn the_version_is_told_from_the_first_bytes_and_none_is_lost() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(told(&[request]).await, (false, request.to_vec()));
        let post = b"POST / HTTP/1.1\r\n";
        assert_eq!(told(&[b"P", &post[1..]]).await, (false, post.to_vec()));
        let h2 = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        assert_eq!(told(&[&h2[..3], &h2[3..]]).await, (true, h2.clone()));
        assert_eq!(told(&[b"PRI"]).await, (false, b"PRI".to_vec()));
    }
}
