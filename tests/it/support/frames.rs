//! HTTP/2 frames, written and read by hand (RFC 9113 §4), for peers that do what
//! no library would.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame, as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field block of literals that touch no table (RFC 7541 §6.2.2), for names and
/// values of up to 126 bytes.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A response's head.
pub fn head(flags: u8, stream: u32, list: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, fields(list))
}

/// The server's end of a connection.
pub struct Peer {
    stream: TcpStream,
    /// What the client's first SETTINGS said.
    pub settings: Vec<(u16, u32)>,
    /// Whether pings are answered.
    pub answers_pings: bool,
}

impl Peer {
    /// Takes the client's preface and sends ours.
    pub async fn accept(mut stream: TcpStream) -> Option<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.ok()?;
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut peer = Self { stream, settings: Vec::new(), answers_pings: true };
        peer.send(frame(SETTINGS, 0, 0, [])).await;
        Some(peer)
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _gone = self.stream.write_all(bytes.as_ref()).await;
    }

    async fn raw(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame that is not about the connection itself; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let got = self.raw().await?;
            match got.kind {
                SETTINGS if got.flags & ACK == 0 => {
                    if self.settings.is_empty() {
                        self.settings = got
                            .payload
                            .chunks(6)
                            .map(|one| {
                                let value = u32::from_be_bytes([one[2], one[3], one[4], one[5]]);
                                (u16::from_be_bytes([one[0], one[1]]), value)
                            })
                            .collect();
                    }
                    self.send(frame(SETTINGS, ACK, 0, [])).await;
                }
                PING if got.flags & ACK == 0 && self.answers_pings => {
                    self.send(frame(PING, ACK, 0, got.payload)).await;
                }
                SETTINGS | PING => {}
                WINDOW_UPDATE if got.stream != 0 => {}
                _ => return Some(got),
            }
        }
    }

    /// The number of the next stream whose request is whole.
    pub async fn request(&mut self) -> Option<u32> {
        loop {
            let got = self.next().await?;
            if got.ends_stream() {
                return Some(got.stream);
            }
        }
    }

    /// Answers 200 and `ok`.
    pub async fn ok(&mut self, stream: u32) {
        self.send(head(0, stream, &[(":status", "200")])).await;
        self.send(frame(DATA, END_STREAM, stream, "ok")).await;
    }
}
