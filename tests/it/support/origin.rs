//! Origins that record exactly what they receive.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// An origin; displayed, it is its URL.
pub struct Origin {
    pub address: SocketAddr,
    scheme: &'static str,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
    bytes: Mutex<Vec<u8>>,
}

/// One connection to an origin.
pub struct Connection {
    pub stream: TcpStream,
    /// From 0.
    pub number: usize,
    buffer: Vec<u8>,
    log: Arc<Log>,
}

impl Origin {
    /// Treats each connection as `script` says.
    pub async fn scripted<F, Fut>(script: F) -> Self
    where
        F: Fn(Connection) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::scripted_on(listener, script)
    }

    pub fn scripted_on<F, Fut>(listener: TcpListener, script: F) -> Self
    where
        F: Fn(Connection) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let shared = log.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let log = shared.clone();
                tokio::spawn(script(Connection { stream, number, buffer: Vec::new(), log }));
            }
        });
        Self { address, scheme: "http", log, task }
    }

    /// Answers every request with the same bytes, and keeps the connection.
    pub async fn answering(response: &'static str) -> Self {
        Self::scripted(move |mut connection| async move {
            while connection.request().await.is_some() {
                connection.write(response).await;
            }
        })
        .await
    }

    /// Answers every request with 200 and `name`.
    pub async fn named(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::named_on(listener, name)
    }

    pub fn named_on(listener: TcpListener, name: &str) -> Self {
        let response: &'static str = Box::leak(
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
                .into_boxed_str(),
        );
        Self::scripted_on(listener, move |mut connection| async move {
            while connection.request().await.is_some() {
                connection.write(response).await;
            }
        })
    }

    /// Speaks HTTP/2 by prior knowledge; answers with what `answer` makes of
    /// each request's head.
    pub async fn h2c<F>(answer: F) -> Self
    where
        F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        let mut origin = Self::scripted(move |connection| {
            let answer = answer.clone();
            async move { serve_h2(connection.stream, answer).await }
        })
        .await;
        origin.scheme = "h2c";
        origin
    }

    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    /// The heads (and bodies, as they were framed) received so far.
    pub fn requests(&self) -> Vec<String> {
        self.log.requests.lock().clone()
    }

    /// The one request received.
    pub fn request(&self) -> String {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }

    /// Every byte received.
    pub fn bytes(&self) -> Vec<u8> {
        self.log.bytes.lock().clone()
    }
}

pub async fn serve_h2<F>(stream: impl super::client::Io + 'static, answer: Arc<F>)
where
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let response = answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.address)
    }
}

impl Connection {
    /// More bytes, or `false` at the end.
    async fn more(&mut self) -> bool {
        let mut chunk = vec![0; 16 * 1024];
        match self.stream.read(&mut chunk).await {
            Ok(count) if count > 0 => {
                self.buffer.extend_from_slice(&chunk[..count]);
                self.log.bytes.lock().extend_from_slice(&chunk[..count]);
                true
            }
            _ => false,
        }
    }

    async fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|part| part == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// One request's head.
    pub async fn head(&mut self) -> Option<String> {
        let head = self.take_until(b"\r\n\r\n").await?;
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// One request, head and body; `None` when the connection ends.
    pub async fn request(&mut self) -> Option<String> {
        let mut request = self.head().await?;
        let lower = request.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            // The last chunk, whatever trailers follow it.
            loop {
                let line = self.take_until(b"\r\n").await?;
                let line = String::from_utf8(line).unwrap();
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                request.push_str(&line);
                if size == 0 {
                    break;
                }
                while self.buffer.len() < size + 2 {
                    if !self.more().await {
                        return None;
                    }
                }
                let chunk: Vec<u8> = self.buffer.drain(..size + 2).collect();
                request.push_str(&String::from_utf8_lossy(&chunk));
            }
            loop {
                let line = String::from_utf8(self.take_until(b"\r\n").await?).unwrap();
                request.push_str(&line);
                if line == "\r\n" {
                    break;
                }
            }
        } else if let Some(length) = super::client::fields(&request, "content-length").first() {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                if !self.more().await {
                    return None;
                }
            }
            let body: Vec<u8> = self.buffer.drain(..length).collect();
            request.push_str(&String::from_utf8_lossy(&body));
        }
        self.log.requests.lock().push(request.clone());
        Some(request)
    }

    /// Whatever has come of a body; nothing at the end.
    pub async fn some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            self.more().await;
        }
        std::mem::take(&mut self.buffer)
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _gone = self.stream.write_all(bytes.as_ref()).await;
    }
}
