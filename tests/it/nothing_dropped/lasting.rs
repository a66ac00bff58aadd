//! What lasts: WebSockets, downloads and uploads.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::load::Client;
use super::origins::{Sum, last_line, line};
use super::wire::{Door, PATIENCE, Wire};
use crate::support::client::Io;

type Socket = WebSocketStream<Box<dyn Io>>;

/// How a WebSocket came to its end.
enum End {
    /// The client wanted it.
    Ours,
    /// The proxy said 1001.
    ToldToGo,
}

/// Talks over a WebSocket as long as it lasts, and then over another one.
pub async fn talks(client: Arc<Client>, door: Door, over_http2: bool, pause: Duration) {
    while !client.is_over() {
        let opened = async {
            let wire = door.open().await?;
            let path = "/moving/ws";
            match timeout(PATIENCE, open(wire, path, over_http2)).await {
                Ok(socket) => socket,
                Err(_) => Err("no answer for a long time".to_owned()),
            }
        };
        let ended = match opened.await {
            Ok(socket) => {
                client.event("opened");
                talk(&client, socket, pause).await
            }
            Err(what) => Err(format!("opening: {what}")),
        };
        match ended {
            Ok(End::Ours) => return,
            Ok(End::ToldToGo) => client.event("told 1001"),
            Err(what) => {
                client.failed("WebSocket", &what);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn open(wire: Wire, path: &str, over_http2: bool) -> Result<Socket, String> {
    let io = wire.boxed();
    if !over_http2 {
        let request = format!("ws://a.test{path}").into_client_request().unwrap();
        let opened = tokio_tungstenite::client_async(request, io).await;
        return opened.map(|(socket, _)| socket).map_err(|error| error.to_string());
    }
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io));
    let (mut sender, connection) = shaken.await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let mut request = Request::connect(format!("https://a.test{path}"))
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    let mut answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if answer.status() != 200 {
        return Err(format!("{} instead of a WebSocket", answer.status()));
    }
    let switched = hyper::upgrade::on(&mut answer).await.map_err(|error| error.to_string())?;
    // The stream ends with the last that could send another request on it.
    tokio::spawn(async move {
        let _ended = answer.into_body().collect().await;
        std::future::pending::<()>().await;
        drop(sender);
    });
    let io: Box<dyn Io> = Box::new(TokioIo::new(switched));
    Ok(WebSocketStream::from_raw_socket(io, Role::Client, None).await)
}

async fn talk(client: &Client, mut socket: Socket, pause: Duration) -> Result<End, String> {
    let mut origin = String::new();
    for number in 0_u64.. {
        if client.is_over() {
            let closed = timeout(PATIENCE, goodbye(&mut socket)).await;
            return closed.map(|()| End::Ours).map_err(|_| "no answer to the Close".to_owned());
        }
        let begun = Instant::now();
        let said = format!("{}.{number}", client.who());
        let place = |what: String| format!("message {number}, origin {origin:?}: {what}");
        // If it cannot be sent, what comes says why.
        let _gone = socket.send(Message::text(said.clone())).await;
        let heard = match timeout(PATIENCE, hear(&mut socket)).await {
            Ok(heard) => heard.map_err(place)?,
            Err(_) => return Err(place("no echo for a long time".to_owned())),
        };
        let Some(heard) = heard else {
            use std::sync::atomic::Ordering::SeqCst;
            // Only a process that goes may say so.
            return if client.shared.upgrading.load(SeqCst) {
                let _polite = timeout(PATIENCE, goodbye(&mut socket)).await;
                Ok(End::ToldToGo)
            } else {
                Err(place("closed with 1001".to_owned()))
            };
        };
        let (name, echo) = heard.split_once(' ').unwrap_or_default();
        if origin.is_empty() {
            name.clone_into(&mut origin);
        }
        if (name, echo) != (&origin, &said) {
            return Err(format!("message {number}, origin {origin:?}: echoed as {heard:?}"));
        }
        client.done(begun);
        tokio::time::sleep(pause).await;
    }
    Ok(End::Ours)
}

/// The next text; `None` for a Close with 1001.
async fn hear(socket: &mut Socket) -> Result<Option<String>, String> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(Some(text.to_string())),
            Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 1001 => {
                return Ok(None);
            }
            Some(Ok(Message::Close(close))) => return Err(format!("closed: {close:?}")),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(format!("cut: {error}")),
            None => return Err("cut: the end without a Close".to_owned()),
        }
    }
}

/// Says Close, or answers one, and reads to the end.
async fn goodbye(socket: &mut Socket) {
    let _said_already = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
}

/// Downloads and uploads until it is told to stop, each of `lines` lines or, without
/// it, until everything that lasts is over.
pub async fn transfers(
    client: Arc<Client>,
    door: Door,
    up: bool,
    lines: Option<u64>,
    over: watch::Receiver<bool>,
) {
    for number in 0.. {
        if client.is_over() || lines.is_none() && number > 0 {
            return;
        }
        let begun = Instant::now();
        let id = format!("{}.{number}", client.who());
        let transferred = match door.open().await {
            Ok(wire) if up => upload(wire, &id, lines, &over).await,
            Ok(wire) => download(wire, &id, lines).await,
            Err(what) => Err(what),
        };
        match transferred {
            Ok(()) => client.shared.tally.lasted(client.kind, begun),
            Err(what) => {
                client.failed(&id, &what);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn download(wire: Wire, id: &str, lines: Option<u64>) -> Result<(), String> {
    let limit = lines.map(|lines| format!("&lines={lines}")).unwrap_or_default();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(wire.boxed()))
            .await
            .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("/moving/download?id={id}{limit}"))
        .header("host", "a.test")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if answer.status() != 200 {
        return Err(format!("{} instead of a download", answer.status()));
    }
    let (mut body, mut text, mut number) = (answer.into_body(), String::new(), 0);
    loop {
        let place = |what: &str| format!("{what} after line {number}");
        match timeout(PATIENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let data = frame.into_data().unwrap_or_default();
                text.push_str(&String::from_utf8_lossy(&data));
            }
            Ok(Some(Err(error))) => return Err(place(&format!("cut ({error})"))),
            Ok(None) => break,
            Err(_) => return Err(place("nothing for a long time")),
        }
        while let Some(rest) = text.strip_prefix(&line(number)) {
            (text, number) = (rest.to_owned(), number + 1);
        }
    }
    connection.abort();
    if text == last_line(number) && lines.is_none_or(|lines| lines == number) {
        Ok(())
    } else {
        Err(format!("after line {number}: {text:?} and the end"))
    }
}

async fn upload(
    mut wire: Wire,
    id: &str,
    lines: Option<u64>,
    over: &watch::Receiver<bool>,
) -> Result<(), String> {
    let head = format!(
        "POST /moving/upload?id={id} HTTP/1.1\r\nHost: a.test\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
    let (mut sum, mut number) = (Sum::new(), 0);
    let cut = |number: u64, error: std::io::Error| format!("cut after line {number}: {error}");
    wire.write(head.as_bytes()).await.map_err(|(_, error)| cut(0, error))?;
    while lines.map_or_else(|| !*over.borrow(), |lines| number < lines) {
        let line = line(number);
        sum.add(line.as_bytes());
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        wire.write(chunk.as_bytes()).await.map_err(|(_, error)| cut(number, error))?;
        number += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    wire.write(b"0\r\n\r\n").await.map_err(|(_, error)| cut(number, error))?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match timeout(PATIENCE, wire.read(&mut chunk)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(count)) => answer.extend_from_slice(&chunk[..count]),
            Ok(Err(error)) => return Err(format!("answer: {error}")),
            Err(_) => return Err("no answer for a long time".to_owned()),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let expected = format!(" {id} POST {sum}\n");
    if answer.starts_with("HTTP/1.1 200 ") && answer.contains(&expected) {
        Ok(())
    } else {
        Err(format!("no {expected:?} in {answer:?}"))
    }
}
