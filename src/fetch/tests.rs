use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::*;

/// Answers every head that comes in with the same bytes, over every connection.
async fn serve(answer: impl Into<Vec<u8>>, tls: Option<TlsAcceptor>) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, answer) = (Arc::new(AtomicUsize::new(0)), answer.into());
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let (answer, tls) = (answer.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => respond(stream, &answer).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            respond(stream, &answer).await;
                        }
                    }
                }
            });
        }
    });
    (port, connections)
}

async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}

fn within(timeout: Duration) -> Fetch {
    Fetch::new(&FetchSettings { timeout, ..Default::default() }).unwrap()
}

fn plain() -> Fetch {
    within(Duration::from_secs(30))
}

fn get(url: String) -> Request<Bytes> {
    Request::get(url).body(Bytes::new()).unwrap()
}

#[tokio::test]
async fn connections_are_kept_and_redirects_are_not_followed() {
    let moved =
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 4\r\n\r\nbody";
    let (port, connections) = serve(moved, None).await;
    let fetch = plain();
    for _ in 0..5 {
        let response = fetch.send(get(format!("http://127.0.0.1:{port}/a"))).await.unwrap();
        assert_eq!((response.status().as_u16(), &**response.body()), (302, &b"body"[..]));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let url = format!("http://127.0.0.1:{port}/a?secret=hunter2").parse().unwrap();
    let error = fetch.get_json(&url).await.unwrap_err().to_string();
    assert!(error.contains("/a: it answered 302") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn an_answer_is_bounded_in_length_and_in_time() {
    let announced = "HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n";
    let mut endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..40 {
        endless.extend_from_slice(b"8000\r\n");
        endless.extend_from_slice(&[b'x'; 0x8000]);
        endless.extend_from_slice(b"\r\n");
    }
    let mut head = b"HTTP/1.1 200 OK\r\nx-long: ".to_vec();
    head.extend_from_slice(&[b'x'; 2 * HEAD_LIMIT]);
    for (answer, expected) in
        [(announced.as_bytes(), "longer"), (&*endless, "longer"), (&*head, "connection failed")]
    {
        let (port, _) = serve(answer, None).await;
        let error = plain().send(get(format!("http://127.0.0.1:{port}/"))).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let (port, _) = serve("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhalf", None).await;
    let impatient = within(Duration::from_millis(300));
    let error = impatient.send(get(format!("http://127.0.0.1:{port}/"))).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[tokio::test]
async fn who_cannot_be_reached_is_said_and_a_url_with_a_user_is_none() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = plain().send(get(format!("http://{closed}/keys"))).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert!(error.to_string().starts_with(&format!("http://{closed}/keys: ")), "{error}");
    for url in ["http://me:hunter2@127.0.0.1/", "/keys"] {
        let error = plain().send(get(url.into())).await.unwrap_err().to_string();
        assert!(error.contains("absolute URL") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn of_a_place_is_told_what_anybody_may_know() {
    for (url, told) in [
        ("https://id.test:8443/keys?token=hunter2", "https://id.test:8443/keys"),
        ("http://me:hunter2@127.0.0.1:1/keys", "http://127.0.0.1:1/keys"),
        ("https://id.test", "https://id.test/"),
    ] {
        assert_eq!(place(&url.parse().unwrap()), told);
    }
}

#[tokio::test]
async fn certificates_are_checked_for_name_and_issuer() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let (port, _) = serve(answer, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let mut bundle = tempfile::NamedTempFile::new().unwrap();
    bundle.write_all(certified.cert.pem().as_bytes()).unwrap();
    let ca = Some(bundle.path().to_owned());
    let fetch = Fetch::new(&FetchSettings { ca, ..Default::default() }).unwrap();
    let good = format!("https://localhost:{port}/").parse().unwrap();
    assert_eq!(fetch.get_json(&good).await.unwrap().body(), "{}");
    let error = fetch.send(get(format!("https://127.0.0.1:{port}/"))).await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("not valid"), "{error}");
    let error = plain().get_json(&good).await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("certificate"), "{error}");
}
