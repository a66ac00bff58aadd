//! WebSocket peers, over each version of HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use futures_util::{SinkExt, StreamExt};

use super::certs::{Authority, connect};
use super::client::{Io, fields};
use super::eventually;
use super::origin::{Connection, Origin};
use super::proxy::{Running, Setup};

/// What a request for a WebSocket has beside its target and `Host`.
pub const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A client's end.
pub type Socket = WebSocketStream<Box<dyn Io>>;

/// An HTTP/2 connection to ask for streams on.
pub type H2 = SendRequest<Empty<Bytes>>;

/// What a client speaks below the WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Over {
    Http1,
    Http2,
    Tls1,
    Tls2,
}

pub const ALL: [Over; 4] = [Over::Http1, Over::Http2, Over::Tls1, Over::Tls2];

/// A proxy with a plain listener, or one of TLS, and clients for it.
pub struct Gate {
    pub proxy: Running,
    authority: Authority,
    over: Over,
}

impl Gate {
    pub fn new(over: Over, setup: Setup) -> Self {
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        let setup = match over {
            Over::Http1 | Over::Http2 => setup,
            Over::Tls1 | Over::Tls2 => {
                authority.sign(dir.path(), "a", &["a.test"]);
                let certificate = "{ certificate = \"a.crt\", key = \"a.key\" }";
                setup.listener(&format!("[listener.tls]\ncertificates = [{certificate}]"))
            }
        };
        Self { proxy: setup.start_in(dir), authority, over }
    }

    async fn io(&self) -> Box<dyn Io> {
        let address = self.proxy.address;
        let alpn: &[&str] = match self.over {
            Over::Http1 | Over::Http2 => {
                return Box::new(TcpStream::connect(address).await.unwrap());
            }
            Over::Tls1 => &["http/1.1"],
            Over::Tls2 => &["h2", "http/1.1"],
        };
        let stream = connect(address, self.authority.client(alpn), "a.test").await.unwrap();
        let agreed = stream.get_ref().1.alpn_protocol().unwrap().to_vec();
        assert_eq!(agreed, alpn[0].as_bytes());
        Box::new(stream)
    }

    /// Opens a WebSocket with more fields; gives the response's as well.
    pub async fn open(&self, more: &[(&'static str, &'static str)]) -> (Socket, HeaderMap) {
        match self.over {
            Over::Http1 | Over::Tls1 => upgrade(self.io().await, more).await,
            Over::Http2 | Over::Tls2 => extended(&mut h2(self.io().await).await, more).await,
        }
    }

    /// Opens a WebSocket.
    pub async fn socket(&self) -> Socket {
        self.open(&[]).await.0
    }
}

fn config() -> Option<WebSocketConfig> {
    Some(WebSocketConfig::default().max_frame_size(None).max_message_size(None))
}

/// Opens a WebSocket on a connection of its own.
pub async fn upgrade(
    io: Box<dyn Io>,
    more: &[(&'static str, &'static str)],
) -> (Socket, HeaderMap) {
    let mut request = "ws://a.test/ws?a=b".into_client_request().unwrap();
    for (name, value) in more {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let opened = tokio_tungstenite::client_async_with_config(request, io, config()).await;
    let (socket, response) = opened.unwrap();
    (socket, response.into_parts().0.headers)
}

/// Speaks HTTP/2 on a connection, until the proxy ends it.
pub async fn h2(io: impl Io + 'static) -> H2 {
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    let open = sender.clone();
    tokio::spawn(async move {
        let _ended = connection.await;
        drop(open);
    });
    sender
}

pub async fn h2_to(address: SocketAddr) -> H2 {
    h2(TcpStream::connect(address).await.unwrap()).await
}

/// An extended CONNECT for `protocol`.
pub fn connecting(protocol: &'static str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "http://a.test/ws?a=b".parse().unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

/// Opens a WebSocket on a stream.
pub async fn extended(
    sender: &mut H2,
    more: &[(&'static str, &'static str)],
) -> (Socket, HeaderMap) {
    let mut request = connecting("websocket");
    for (name, value) in more {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let mut response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let io: Box<dyn Io> = Box::new(stream(&mut response).await);
    let socket = WebSocketStream::from_raw_socket(io, Role::Client, config()).await;
    (socket, response.into_parts().0.headers)
}

/// The stream that an extended CONNECT was answered with.
pub async fn stream(response: &mut Response<Incoming>) -> TokioIo<Upgraded> {
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

/// What WebSocket origins have seen, a line each.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn note(&self, event: impl Into<String>) {
        self.0.lock().push(event.into());
    }

    /// Waits until this has been seen.
    pub async fn see(&self, event: &str) {
        let what = format!("{event:?} is seen");
        eventually(&what, async || self.0.lock().iter().any(|seen| seen == event)).await;
    }
}

/// Echoes messages; `ping me` is answered by a ping, `close CODE` by that.
pub async fn echo() -> (Origin, Events) {
    let events = Events::default();
    let shared = events.clone();
    let origin = Origin::scripted(move |connection| {
        let events = shared.clone();
        async move { echo_on(connection.stream, events).await }
    })
    .await;
    (origin, events)
}

async fn echo_on(stream: TcpStream, events: Events) {
    let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(stream, config()).await else {
        return;
    };
    loop {
        let answer = match socket.next().await {
            Some(Ok(Message::Text(text))) if text == "ping me" => Message::Ping("ping".into()),
            Some(Ok(Message::Text(text))) if text.starts_with("close ") => {
                let code: u16 = text[6..].parse().unwrap();
                Message::Close(Some(CloseFrame { code: code.into(), reason: "as asked".into() }))
            }
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => message,
            Some(Ok(Message::Pong(payload))) => {
                events.note(format!("pong {}", String::from_utf8_lossy(&payload)));
                continue;
            }
            Some(Ok(Message::Close(close))) => {
                events.note(describe(close.as_ref()));
                continue;
            }
            Some(Ok(_)) => continue,
            Some(Err(Error::ConnectionClosed)) | None => break events.note("end"),
            Some(Err(error)) => break events.note(format!("broken: {error}")),
        };
        if let Err(error) = socket.send(answer).await {
            break events.note(format!("unsendable: {error}"));
        }
    }
}

/// A Close frame in words.
pub fn describe(close: Option<&CloseFrame>) -> String {
    match close {
        Some(CloseFrame { code, reason }) => format!("close {} {reason}", u16::from(*code)),
        None => "close".to_owned(),
    }
}

/// Reads to the end, and goes; gives the Close frame that came before it.
pub async fn closing(mut socket: Socket) -> String {
    let mut said = "nothing".to_owned();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(close) = message {
            said = describe(close.as_ref());
        }
    }
    said
}

/// The 101 that a request is owed, with more fields.
pub fn switched(head: &str, more: &str) -> String {
    let key = fields(head, "sec-websocket-key").first().map_or("", |key| key);
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

/// An origin that switches, and then treats the bytes as `script` says.
pub async fn switching<F, Fut>(script: F) -> Origin
where
    F: Fn(Connection) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Origin::scripted(move |mut connection| {
        let script = script.clone();
        async move {
            let Some(head) = connection.request().await else { return };
            connection.write(switched(&head, "")).await;
            script(connection).await;
        }
    })
    .await
}
