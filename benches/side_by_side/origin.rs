//! The cheapest origin that speaks HTTP/1.1: it looks at as little of a request
//! as it takes to frame it, and answers from memory.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

/// Serves until the process is ended.
pub(crate) fn run(address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let answers = Answers::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answers = answers.clone();
            tokio::spawn(async move {
                let _ended = serve(stream, &answers).await;
            });
        }
    })
}

#[derive(Clone)]
struct Answers {
    kib: &'static [u8],
    mib: &'static [u8],
    stored_kib: &'static [u8],
    stored_large: &'static [u8],
}

impl Answers {
    fn new() -> Self {
        let of = |bytes: usize, more: &str| -> &'static [u8] {
            let head = format!(
                "HTTP/1.1 200 OK\r\nServer: origin\r\nX-Powered-By: loops\r\n\
                 Content-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n{more}\r\n"
            );
            let mut answer = head.into_bytes();
            answer.resize(answer.len() + bytes, b'x');
            answer.leak()
        };
        let stored = "Cache-Control: max-age=86400\r\nETag: \"a\"\r\n";
        Self {
            kib: of(1024, ""),
            mib: of(1024 * 1024, ""),
            stored_kib: of(1024, stored),
            stored_large: of(100 * 1024, stored),
        }
    }
}

impl Answers {
    fn to(&self, target: &str) -> &'static [u8] {
        match target {
            "/stored/1k" => self.stored_kib,
            "/stored/100k" => self.stored_large,
            other if other.ends_with("/1m") => self.mib,
            _ => self.kib,
        }
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    loop {
        let head = loop {
            if let Some(end) = buffer[..filled].windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
        };
        let text = std::str::from_utf8(&buffer[..head])?;
        let answer = answers.to(text.split(' ').nth(1).unwrap_or_default());
        let mut body = content_length(text)?;
        let beside = body.min(filled - head);
        buffer.copy_within(head + beside..filled, 0);
        filled -= head + beside;
        body -= beside;
        while body > 0 {
            let most = body.min(buffer.len());
            let read = stream.read(&mut buffer[..most]).await?;
            if read == 0 {
                return Ok(());
            }
            body -= read;
        }
        stream.write_all(answer).await?;
    }
}

/// The length of a body that a head announces.
pub(crate) fn content_length(head: &str) -> Result<usize> {
    let field = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    Ok(field.map_or(Ok(0), |value| value.trim().parse())?)
}
