//! Connections that begin with a PROXY protocol header: whose they are.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::ProxyProtocolSettings;
use crate::proxy_protocol::{Announced, Invalid, parse};

/// What is read at once: a header, and often what the client says first.
const READ: usize = 1024;

/// Why nobody was introduced.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotIntroduced {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("the header was not whole within {0:?}")]
    Timeout(Duration),
    #[error("the connection ended before the header was whole")]
    Truncated,
    /// It ended without a word, as those do that only look whether somebody listens.
    #[error("the connection ended before there was anything")]
    Silent,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl NotIntroduced {
    /// The reason as one word, for metrics; `None` where nothing went wrong.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Invalid(invalid) => Some(invalid.as_str()),
            Self::Timeout(_) => Some("proxy_header_timeout"),
            Self::Truncated | Self::Io(_) => Some("proxy_header_truncated"),
            Self::Silent => None,
        }
    }
}

/// Reads the header of a connection, and what came behind it.
pub(super) async fn introduced(
    stream: &mut (impl AsyncRead + Unpin),
    settings: &ProxyProtocolSettings,
) -> Result<(Announced, Bytes), NotIntroduced> {
    let mut read = BytesMut::with_capacity(READ);
    let header = async {
        loop {
            if let Some(header) = parse(&read, settings.max_header)? {
                return Ok(header);
            }
            if stream.read_buf(&mut read).await? == 0 {
                let silent = read.is_empty();
                return Err(if silent { NotIntroduced::Silent } else { NotIntroduced::Truncated });
            }
        }
    };
    let header = tokio::time::timeout(settings.timeout, header)
        .await
        .map_err(|_| NotIntroduced::Timeout(settings.timeout))??;
    // What was read is as long as the header at least.
    read.advance(header.length);
    Ok((header.announced, read.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 80 443\r\n";

    /// What is made of these parts, and what is left of them.
    async fn of(parts: &[&[u8]]) -> (Result<Announced, Option<&'static str>>, Vec<u8>) {
        let (mut there, mut here) = tokio::io::duplex(64);
        let settings = ProxyProtocolSettings::new(Vec::new());
        let send = async {
            for part in parts {
                let _closed = there.write_all(part).await;
                tokio::task::yield_now().await;
            }
            drop(there);
        };
        let (read, ()) = tokio::join!(introduced(&mut here, &settings), send);
        let (announced, mut left) = match read {
            Ok((announced, left)) => (Ok(announced), left.to_vec()),
            Err(error) => (Err(error.reason()), Vec::new()),
        };
        here.read_to_end(&mut left).await.unwrap();
        (announced, left)
    }

    #[tokio::test]
    async fn a_header_in_any_two_parts_is_read_and_nothing_behind_it_is_lost() {
        let bytes = [LINE, b"GET / HTTP/1.1\r\n"].concat();
        let expected = parse(LINE, 107).unwrap().unwrap().announced;
        for at in 0..=bytes.len() {
            let (announced, left) = of(&[&bytes[..at], &bytes[at..]]).await;
            assert_eq!(announced, Ok(expected), "{at}");
            assert_eq!(left, b"GET / HTTP/1.1\r\n", "{at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(of(&single).await, (Ok(expected), b"GET / HTTP/1.1\r\n".to_vec()));
    }

    #[tokio::test]
    async fn an_end_before_the_header_is_told_from_one_within() {
        assert_eq!(of(&[]).await.0, Err(None));
        assert_eq!(of(&[&LINE[..9]]).await.0, Err(Some("proxy_header_truncated")));
        assert_eq!(of(&[b"GET "]).await.0, Err(Some("proxy_header_missing")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_header_has_one_deadline() {
        let (mut there, mut here) = tokio::io::duplex(64);
        let settings = ProxyProtocolSettings::new(Vec::new());
        let trickle = async {
            for byte in LINE {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let _closed = there.write_all(&[*byte]).await;
            }
        };
        let before = tokio::time::Instant::now();
        let read = tokio::select! {
            read = introduced(&mut here, &settings) => read,
            () = trickle => unreachable!(),
        };
        assert_eq!(read.unwrap_err().reason(), Some("proxy_header_timeout"));
        assert_eq!(before.elapsed(), Duration::from_secs(5));
    }
}
