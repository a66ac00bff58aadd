//! A small origin to try a proxy with.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The most that `/bytes/N` sends.
const MOST_BYTES: u64 = 1 << 30;

/// The longest that `/delay/MS` waits, in milliseconds.
const LONGEST_DELAY: u64 = 60_000;

/// The routes of an origin that calls itself `name`.
///
/// `/` and every unknown path answer which origin it is, and the head it
/// received; `/bytes/N` sends N bytes, `/delay/MS` waits, `/status/N` answers
/// with that status, `/echo` sends the body back, `/ws` does so over WebSocket,
/// `/healthz` is healthy. A POST to `/stop`, not by way of a proxy, cancels
/// `stop`, so that one can see what becomes of requests without this origin.
pub fn origin(name: &str, stop: CancellationToken) -> Router {
    let name: Arc<str> = name.into();
    Router::new()
        .route("/healthz", get(|| async { "healthy\n" }))
        .route("/stop", post(async move |headers: HeaderMap| stop_if_direct(&headers, &stop)))
        .route("/bytes/{count}", get(bytes))
        .route("/delay/{milliseconds}", any(delay))
        .route("/status/{code}", any(status))
        .route("/echo", any(echo))
        .route("/ws", any(websocket))
        .fallback(about)
        .layer(axum::middleware::map_response(signed))
        .with_state(name)
}

/// Serves an origin until `shutdown` resolves, or it is asked to stop, and what it has begun is done.
///
/// # Errors
///
/// The listener cannot be polled.
pub async fn serve_origin(
    listener: TcpListener,
    name: &str,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let stop = CancellationToken::new();
    let router = origin(name, stop.clone());
    let ended = async move {
        tokio::select! {
            () = shutdown => {}
            () = stop.cancelled() => {}
        }
    };
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(ended).await
}

fn stop_if_direct(headers: &HeaderMap, stop: &CancellationToken) -> Response {
    if headers.contains_key(header::VIA) {
        let why = "only to be asked for directly, not through a proxy\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    stop.cancel();
    "stopping\n".into_response()
}

/// Says what it runs, as origins do, so that it can be seen to be cleaned away.
async fn signed<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("demo-origin/1.0"));
    let powered = HeaderName::from_static("x-powered-by");
    headers.insert(powered, HeaderValue::from_static("curiosity"));
    response
}

async fn about(State(name): State<Arc<str>>, request: Request) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.to_string());
    let mut fields = serde_json::Map::new();
    for (name, value) in request.headers() {
        let value = Value::from(String::from_utf8_lossy(value.as_bytes()));
        match fields.get_mut(name.as_str()) {
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
            None => {
                fields.insert(name.as_str().to_owned(), value);
            }
        }
    }
    let about = json!({
        "origin": &*name,
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": fields,
        "peer": peer,
    });
    let text = serde_json::to_string_pretty(&about).unwrap_or_default();
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (content_type, format!("{text}\n")).into_response()
}

async fn bytes(Path(count): Path<u64>) -> Response {
    static CHUNK: [u8; 16 * 1024] = [b'x'; 16 * 1024];
    if count > MOST_BYTES {
        return (StatusCode::BAD_REQUEST, format!("at most {MOST_BYTES}\n")).into_response();
    }
    let chunks = stream::unfold(count, |left| async move {
        let some = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK.len());
        let chunk = Bytes::from_static(&CHUNK[..some]);
        (some > 0).then(|| (Ok::<_, Infallible>(chunk), left - some as u64))
    });
    let length = [(header::CONTENT_LENGTH, HeaderValue::from(count))];
    (length, Body::from_stream(chunks)).into_response()
}

async fn delay(State(name): State<Arc<str>>, Path(milliseconds): Path<u64>) -> String {
    let milliseconds = milliseconds.min(LONGEST_DELAY);
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    format!("{name} waited {milliseconds} ms\n")
}

async fn status(Path(code): Path<u16>) -> Response {
    match StatusCode::from_u16(code) {
        Ok(status) if code >= 200 => (status, format!("{status}\n")).into_response(),
        _ => (StatusCode::BAD_REQUEST, "a status from 200 to 999\n").into_response(),
    }
}

async fn echo(headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    if let Some(content_type) = headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
    }
    response
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(repeat)
}

async fn repeat(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let answer = matches!(message, Message::Text(_) | Message::Binary(_));
        if answer && socket.send(message).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn ask(request: Request) -> (StatusCode, Vec<u8>) {
        let response = origin("a", CancellationToken::new()).oneshot(request).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    fn get(path: &str) -> Request {
        Request::get(path).header("x-test", "1").body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn it_says_who_it_is_and_what_it_received() {
        let (status, body) = ask(get("/some/path?a=b")).await;
        let about: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 200);
        assert_eq!(about["origin"], "a");
        assert_eq!(about["target"], "/some/path?a=b");
        assert_eq!(about["headers"]["x-test"], "1");
    }

    #[tokio::test]
    async fn it_sends_bytes_statuses_and_echoes() {
        assert_eq!(ask(get("/bytes/100000")).await.1.len(), 100_000);
        assert_eq!(ask(get("/bytes/99999999999")).await.0, 400);
        assert_eq!(ask(get("/status/418")).await.0, 418);
        assert_eq!(ask(get("/status/99")).await.0, 400);
        let request = Request::post("/echo").body(Body::from("hello")).unwrap();
        assert_eq!(ask(request).await.1, b"hello");
    }

    #[tokio::test]
    async fn it_stops_when_it_is_asked_directly() {
        let stop = CancellationToken::new();
        let ask = |via: Option<&str>| {
            let mut request = Request::post("/stop");
            if let Some(via) = via {
                request = request.header("via", via);
            }
            origin("a", stop.clone()).oneshot(request.body(Body::empty()).unwrap())
        };
        assert_eq!(ask(Some("1.1 tollgate")).await.unwrap().status(), 403);
        assert!(!stop.is_cancelled());
        assert_eq!(ask(None).await.unwrap().status(), 200);
        assert!(stop.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_no_longer_than_a_minute() {
        let before = tokio::time::Instant::now();
        ask(get("/delay/999999999")).await;
        assert_eq!(before.elapsed().as_secs(), 60);
    }
}
