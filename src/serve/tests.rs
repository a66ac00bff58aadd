use super::*;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::Layer;

pub(super) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Serves one end of a pipe; `delay` is how long an answer takes.
fn serve(
    delay: Duration,
    body: &'static [u8],
    drain: drain::Watcher,
) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = tokio::io::duplex(1024);
    let body = Bytes::from_static(body);
    let answer = move |_: Request<Body>| {
        let body = body.clone();
        async move {
            tokio::time::sleep(delay).await;
            Ok::<_, Infallible>(Response::new(Body::from(body)))
        }
    };
    (client, serve_with(server, answer, drain))
}

pub(super) fn serve_with<IO, F, A>(io: IO, answer: F, drain: drain::Watcher) -> JoinHandle<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: FnMut(Request<Body>) -> A + Clone + Send + 'static,
    A: Future<Output = Result<Response<Body>, Infallible>> + Send,
{
    tokio::spawn(async move {
        let settings = Arc::new(ServeSettings::default());
        let downstream = Downstream::default();
        let service = ValidateLayer.layer(tower::service_fn(answer));
        connection(io, Speaks::Either, downstream, settings, service, drain).await;
    })
}

fn quick() -> (DuplexStream, JoinHandle<()>) {
    serve(Duration::ZERO, b"hello", drain::Watcher::never())
}

pub(super) async fn read_until(client: &mut DuplexStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0, "ended early: {seen:?}");
    }
    String::from_utf8(seen).unwrap()
}

/// How many seconds pass until the server closes the connection.
pub(super) async fn closed_after(mut client: DuplexStream) -> u64 {
    let before = Instant::now();
    let mut rest = Vec::new();
    let _reset_or_end = client.read_to_end(&mut rest).await;
    before.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_cut() {
    let (client, task) = quick();
    assert_eq!(closed_after(client).await, 10);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dribbles_its_head_is_cut() {
    let (mut client, task) = quick();
    let before = Instant::now();
    for byte in GET.iter().cycle() {
        if client.write_all(std::slice::from_ref(byte)).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert!((10..=15).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_the_next_request_and_then_closed() {
    let (mut client, task) = quick();
    for _ in 0..2 {
        client.write_all(GET).await.unwrap();
        assert!(read_until(&mut client, "hello").await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_secs(40)).await;
    }
    assert_eq!(closed_after(client).await, 35);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_waited_for() {
    let (mut client, _task) = serve(Duration::from_secs(600), b"hello", drain::Watcher::never());
    client.write_all(GET).await.unwrap();
    assert!(read_until(&mut client, "hello").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut() {
    static BIG: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let (mut client, task) = serve(Duration::ZERO, &BIG, drain::Watcher::never());
    let before = Instant::now();
    client.write_all(GET).await.unwrap();
    task.await.unwrap();
    // The kilobyte that it has room for is worth four seconds, beside the grace.
    assert_eq!(before.elapsed().as_secs(), 14);
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_is_under_way_and_closes_what_is_idle() {
    let trigger = drain::trigger();
    let (mut busy, _a) = serve(Duration::from_secs(5), b"hello", trigger.watcher());
    let (mut idle, _b) = serve(Duration::ZERO, b"hello", trigger.watcher());
    busy.write_all(GET).await.unwrap();
    idle.write_all(GET).await.unwrap();
    read_until(&mut idle, "hello").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let watcher = trigger.watcher();
    let _still_busy = watcher.busy(drain::Work::Connection);
    tokio::spawn(trigger.drain(Duration::from_secs(60)));
    let response = read_until(&mut busy, "hello").await.to_ascii_lowercase();
    assert!(response.contains("connection: close"), "{response}");
    assert_eq!(closed_after(busy).await, 0);
    assert_eq!(closed_after(idle).await, 0);
}

#[tokio::test]
async fn prior_knowledge_of_http2_is_understood() {
    let (client, _task) = quick();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://a.test/").body(Body::empty()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
}

#[tokio::test]
async fn a_head_over_the_limit_is_answered_431() {
    let (mut client, _task) = quick();
    let mut head = b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Long: ".to_vec();
    head.resize(80 * 1024, b'x');
    let (mut read, mut write) = tokio::io::split(&mut client);
    let send = async { write.write_all(&head).await };
    let receive = async {
        let mut seen = [0; 12];
        read.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"HTTP/1.1 431");
    };
    tokio::select! {
        () = receive => {}
        _ = async { let _ = send.await; std::future::pending::<()>().await } => {}
    }
}
