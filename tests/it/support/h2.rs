//! A client that sends exactly the HTTP/2 frames it is told, legal or not.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Io;
pub use super::frames::*;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const PRIORITY: u8 = 0x2;

pub const INITIAL_WINDOW_SIZE: u16 = 0x4;

pub const NO_ERROR: u32 = 0x0;
pub const PROTOCOL_ERROR: u32 = 0x1;
pub const FLOW_CONTROL_ERROR: u32 = 0x3;
pub const STREAM_CLOSED: u32 = 0x5;
pub const FRAME_SIZE_ERROR: u32 = 0x6;
pub const REFUSED_STREAM: u32 = 0x7;
pub const CANCEL: u32 = 0x8;
pub const COMPRESSION_ERROR: u32 = 0x9;
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

/// One connection to a proxy.
pub struct H2 {
    stream: Box<dyn Io>,
    buffer: Vec<u8>,
}

/// What became of a stream.
#[derive(Debug, Eq, PartialEq)]
pub enum Outcome {
    Answer(u16, String),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// The connection ended, with this code if there was a GOAWAY.
    Gone(Option<u32>),
}

/// How a connection ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// Code and debug data of the last GOAWAY.
    pub goaway: Option<(u32, String)>,
    /// All frames that came.
    pub frames: Vec<Frame>,
}

impl Ended {
    pub fn code(&self) -> Option<u32> {
        self.goaway.as_ref().map(|(code, _)| *code)
    }

    pub fn why(&self) -> &str {
        self.goaway.as_ref().map_or("", |(_, why)| why)
    }

    pub fn count(&self, kind: u8) -> usize {
        self.frames.iter().filter(|frame| frame.kind == kind).count()
    }
}

impl H2 {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &[]).await
    }

    /// Connects with these SETTINGS.
    pub async fn with(address: SocketAddr, own: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, own).await
    }

    pub async fn over(stream: impl Io + 'static, own: &[(u16, u32)]) -> Self {
        let mut client = Self { stream: Box::new(stream), buffer: Vec::new() };
        // Without a dynamic table, the status is all there is to understand.
        let own = [&[(1, 0)], own].concat();
        client.send([PREFACE, &settings(&own)].concat()).await;
        client
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes).await, "the connection is gone");
    }

    /// Whether it was all taken.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// More bytes, or `false` at the end.
    async fn more(&mut self) -> bool {
        let mut chunk = vec![0; 64 * 1024];
        match tokio::time::timeout(Duration::from_secs(10), self.stream.read(&mut chunk)).await {
            Ok(Ok(0) | Err(_)) => false,
            Ok(Ok(count)) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(_) => panic!("nothing came; so far: {:?}", self.buffer),
        }
    }

    fn parsed(&mut self) -> Option<Frame> {
        let length = u32::from_be_bytes([
            0,
            *self.buffer.first()?,
            *self.buffer.get(1)?,
            *self.buffer.get(2)?,
        ]) as usize;
        if self.buffer.len() < 9 + length {
            return None;
        }
        let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() })
    }

    /// The next frame; SETTINGS and PING are answered. `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parsed() {
                if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
                    let payload: &[u8] = if frame.kind == PING { &frame.payload } else { b"" };
                    self.try_send(self::frame(frame.kind, ACK, 0, payload)).await;
                }
                return Some(frame);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Waits until the proxy has read everything sent so far.
    pub async fn settled(&mut self) -> bool {
        self.try_send(ping(b"settled?")).await;
        while let Some(frame) = self.next().await {
            if frame.kind == PING && frame.payload == b"settled?" {
                return true;
            }
        }
        false
    }

    /// What becomes of a stream; frames of others are passed over.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut status, mut body, mut goaway) = (None, Vec::new(), None);
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY => goaway = Some(code(&frame.payload[4..])),
                _ if frame.stream != stream => {}
                RST_STREAM => return Outcome::Reset(code(&frame.payload)),
                HEADERS if status.is_none() => status = Some(self::status(&frame.payload)),
                DATA => body.extend(frame.payload),
                _ => {}
            }
            let ended = matches!(frame.kind, DATA | HEADERS) && frame.stream == stream;
            if ended && frame.flags & END_STREAM != 0 {
                let body = String::from_utf8_lossy(&body).into_owned();
                return Outcome::Answer(status.unwrap(), body);
            }
        }
        Outcome::Gone(goaway)
    }

    /// The status of a response, without waiting for its body.
    pub async fn status(&mut self, stream: u32) -> u16 {
        while let Some(frame) = self.next().await {
            if frame.kind == HEADERS && frame.stream == stream {
                return status(&frame.payload);
            }
            assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{frame:?}");
        }
        panic!("the connection is gone");
    }

    /// Sends a GET, and says what becomes of it.
    pub async fn get(&mut self, stream: u32, path: &str) -> Outcome {
        self.try_send(get(stream, path)).await;
        self.outcome(stream).await
    }

    /// Reads to the end of the connection.
    pub async fn ended(self) -> Ended {
        self.flood(&[]).await
    }

    /// Sends all of it, or as much as is taken, and reads to the end of the
    /// connection meanwhile. Answers nothing.
    pub async fn flood(mut self, bytes: &[u8]) -> Ended {
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        let buffer = &mut self.buffer;
        let send = async {
            let _refused = write.write_all(bytes).await;
            let _refused = write.flush().await;
        };
        let receive = async {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = read.read(&mut chunk).await {
                buffer.extend_from_slice(&chunk[..count]);
            }
        };
        // Once it has ended, nobody takes what is left to send.
        tokio::select! {
            () = async { send.await; std::future::pending().await } => {}
            () = receive => {}
        }
        let mut ended = Ended::default();
        while let Some(frame) = self.parsed() {
            if frame.kind == GOAWAY {
                let why = String::from_utf8_lossy(&frame.payload[8..]).into_owned();
                ended.goaway = Some((code(&frame.payload[4..]), why));
            }
            ended.frames.push(frame);
        }
        ended
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// The status of a header block: always its first field (RFC 7541, appendix A
/// and B).
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    if block[0] & 0x80 != 0 {
        return [200, 204, 206, 304, 400, 404, 500][usize::from(block[0] & 0x7f) - 8];
    }
    assert!(matches!(block[0], 0x48 | 0x08 | 0x18), "{block:?}");
    let length = usize::from(block[1] & 0x7f);
    let value = &block[2..2 + length];
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(value).unwrap().parse().unwrap();
    }
    let bits: String = value.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut status) = (&*bits, 0);
    for _ in 0..3 {
        let short = u16::from_str_radix(&rest[..5], 2).unwrap();
        let (digit, used) = match short {
            0..=2 => (short, 5),
            _ => (u16::from_str_radix(&rest[..6], 2).unwrap() - 0b01_1001 + 3, 6),
        };
        (status, rest) = (status * 10 + digit, &rest[used..]);
    }
    status
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn ping(payload: &[u8; 8]) -> Vec<u8> {
    frame(PING, 0, 0, payload)
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, CANCEL.to_be_bytes())
}

pub fn data(stream: u32, payload: &[u8], end: bool) -> Vec<u8> {
    frame(DATA, u8::from(end), stream, payload)
}

/// A number of seven bits or more (RFC 7541 §5.1).
fn length(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap()];
    }
    let (mut bytes, mut rest) = (vec![127], length - 127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// A field, literally, that no table remembers.
pub fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (name, value) = (name.as_ref(), value.as_ref());
    [&[0], &*length(name.len()), name, &*length(value.len()), value].concat()
}

pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

pub fn headers<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    stream: u32,
    fields: &[(N, V)],
    end: bool,
) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | u8::from(end), stream, block(fields))
}

/// The fields of a request for a path of `a.test`.
pub fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", "a.test"), (":path", path)]
}

pub fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, &request("GET", path), true)
}

/// The head of a request whose body is to come.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, &request("POST", path), false)
}
