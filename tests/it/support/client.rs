//! A client that sends exactly what it is told, and reads what comes back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One connection to a proxy.
pub struct Raw {
    stream: Box<dyn Io>,
    buffer: Vec<u8>,
}

/// A response, as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// What followed a chunked body.
    pub trailers: String,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    pub fn over(stream: impl Io + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends as much as is taken; a proxy that refuses need not read it all.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _refused = self.stream.write_all(bytes.as_ref()).await;
    }

    /// More bytes, or `false` at the end.
    async fn more(&mut self) -> bool {
        let mut chunk = vec![0; 16 * 1024];
        match tokio::time::timeout(Duration::from_secs(10), self.stream.read(&mut chunk)).await {
            Ok(Ok(0) | Err(_)) => false,
            Ok(Ok(count)) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(_) => panic!("nothing came; so far: {:?}", self.text()),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Reads up to and with `end`.
    pub async fn read_until(&mut self, end: &str) -> String {
        loop {
            let found = self.buffer.windows(end.len()).position(|part| part == end.as_bytes());
            if let Some(at) = found {
                let taken: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            assert!(self.more().await, "ended before {end:?}; so far: {:?}", self.text());
        }
    }

    pub async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.more().await, "ended after {} of {count}", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// Everything until the connection ends.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Reads until `text` has come (`true`) or the connection ends (`false`).
    pub async fn read_to_end_or(&mut self, text: &str) -> bool {
        while !self.text().contains(text) {
            if !self.more().await {
                return false;
            }
        }
        true
    }

    /// Reads one response by its framing.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    pub async fn answer_to(&mut self, method: &str) -> Answer {
        let head = self.read_until("\r\n\r\n").await;
        let status: u16 = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new(), trailers: String::new() };
        if method == "HEAD" || matches!(status, 100..200 | 204 | 304) {
            return answer;
        }
        if answer.field("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.read_until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                answer.body.extend(self.read_exact(size).await);
                self.read_exact(2).await;
            }
            loop {
                let line = self.read_until("\r\n").await;
                if line == "\r\n" {
                    break;
                }
                answer.trailers.push_str(&line);
            }
        } else if let Some(length) = answer.field("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.read_exact(length).await;
        } else {
            answer.body = self.read_to_end().await;
        }
        answer
    }
}

impl Answer {
    /// The value of a field, the first if there are several.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).into_iter().next()
    }

    pub fn fields(&self, name: &str) -> Vec<&str> {
        fields(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The values of a field in a head.
pub fn fields<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

/// Sends one request on a connection of its own.
pub async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Raw::connect(address).await;
    client.try_send(request).await;
    client.answer().await
}

/// GETs a path, with more field lines if there are any.
pub async fn get(address: SocketAddr, path: &str, fields: &str) -> Answer {
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await
}
