//! The proxy as a service inside an axum application.

use std::io::BufRead;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use axum::Router;
use axum::routing::get;
use tollgate::config::RouteSettings;
use tollgate::layers::RateLimitSettings;
use tollgate::route::{Action, ForwardAction, Match};
use tollgate::{Proxy, ProxyService};

use crate::support::client::{self, fields};
use crate::support::origin::Origin;
use crate::support::{websocket, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntheirs";

fn service(origin: &Origin) -> ProxyService {
    let origins = [origin.to_string()];
    Proxy::builder().upstream("o", origins).forward("/", "o").build().unwrap().into_service()
}

async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn it_is_a_fallback_beside_the_applications_own_routes() {
    within(async {
        let origin = Origin::answering(OK).await;
        let app = Router::new()
            .route("/mine", get(|| async { "mine" }))
            .fallback_service(service(&origin));
        let address = serve(app).await;
        assert_eq!(client::get(address, "/mine", "").await.text(), "mine");
        let answer = client::get(address, "/theirs?x", "").await;
        assert_eq!(answer.text(), "theirs");
        assert_eq!(answer.field("server"), Some("tollgate"));
        let request = origin.request();
        assert!(request.starts_with("GET /theirs?x HTTP/1.1\r\n"), "{request}");
        assert_eq!(fields(&request, "x-forwarded-for"), ["127.0.0.1"]);
    })
    .await;
}

#[tokio::test]
async fn it_takes_other_settings_while_it_serves() {
    within(async {
        let (origin, other) = (Origin::answering(OK).await, Origin::named("other").await);
        let limited = |burst: u32| {
            let mut limit = RateLimitSettings::per_second(NonZeroU32::new(1).unwrap());
            limit.burst = NonZeroU32::new(burst).unwrap();
            let action = Action::Forward(ForwardAction::new("o"));
            let mut route = RouteSettings::new("all", Match::default(), action);
            route.rate_limits = vec![limit];
            Proxy::builder().upstream("o", [origin.to_string()]).route(route)
        };
        let service = limited(2).build().unwrap().into_service();
        let mut client = {
            let address = serve(Router::new().fallback_service(service.clone())).await;
            client::Raw::connect(address).await
        };
        let mut ask = async |path: &str| {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
            client.answer().await
        };
        assert_eq!(ask("/").await.text(), "theirs");

        // What stays the same goes on: the count of the limit, the connection.
        let more = limited(2).upstream("more", [other.to_string()]).forward("/more", "more");
        service.reload(more.settings().unwrap()).unwrap();
        assert_eq!(ask("/more").await.text(), "other");
        assert_eq!(ask("/").await.text(), "theirs");
        assert_eq!(ask("/").await.status, 429);
        assert_eq!(origin.connections(), 1);

        // What cannot be built changes nothing.
        let wrong = limited(9).forward("/more", "nowhere");
        let error = service.reload(wrong.settings().unwrap()).unwrap_err();
        assert!(error.to_string().contains("no upstream `nowhere`"), "{error}");
        assert_eq!(ask("/more").await.text(), "other");

        service.reload(limited(9).settings().unwrap()).unwrap();
        assert_eq!(ask("/more").await.text(), "theirs");
        assert_eq!(other.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn it_can_be_nested_and_layered() {
    within(async {
        let origin = Origin::answering(OK).await;
        let layered = tower::ServiceBuilder::new()
            .layer(tower_http::catch_panic::CatchPanicLayer::new())
            .service(service(&origin));
        let address = serve(Router::new().nest_service("/api", layered)).await;
        assert_eq!(client::get(address, "/api/x", "").await.text(), "theirs");
        assert!(origin.request().starts_with("GET /x HTTP/1.1\r\n"));
        assert_eq!(client::get(address, "/elsewhere", "").await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn it_streams_requests_and_refuses_what_is_malformed() {
    within(async {
        let origin = Origin::answering(OK).await;
        let address = serve(Router::new().fallback_service(service(&origin))).await;
        let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(client::ask(address, post).await.status, 200);
        assert!(origin.request().ends_with("abc"));
        let hosts = "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n";
        assert_eq!(client::ask(address, hosts).await.status, 400);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_rate_limit_goes_by_connect_info() {
    within(async {
        let origin = Origin::answering(OK).await;
        let action = Action::Forward(ForwardAction::new("o"));
        let mut route = RouteSettings::new("all", Match::default(), action);
        route.rate_limits = vec![RateLimitSettings::per_second(NonZeroU32::MIN)];
        let proxy = Proxy::builder().upstream("o", [origin.to_string()]).route(route);
        let service = proxy.build().unwrap().into_service();
        let address = serve(Router::new().fallback_service(service)).await;
        assert_eq!(client::get(address, "/", "").await.status, 200);
        assert_eq!(client::get(address, "/", "").await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn a_websocket_passes_through_the_application() {
    within(async {
        use futures_util::{SinkExt, StreamExt};
        let origin = Origin::scripted(|connection| async move {
            let mut socket = tokio_tungstenite::accept_async(connection.stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        })
        .await;
        let address = serve(Router::new().fallback_service(service(&origin))).await;
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async("ws://a.test/", tcp).await.unwrap();
        socket.send("hello".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "hello");

        let mut sender = websocket::h2_to(address).await;
        let (mut socket, _) = websocket::extended(&mut sender, &[]).await;
        socket.send("over HTTP/2".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "over HTTP/2");
    })
    .await;
}

#[test]
fn everything_wrong_is_said_at_once() {
    let error = Proxy::builder()
        .upstream("o", ["127.0.0.1:80", "ftp://x"])
        .forward("/", "missing")
        .build()
        .unwrap_err();
    assert!(error.problems().len() >= 3, "{error}");
    let text = error.to_string();
    for part in ["127.0.0.1:80", "ftp", "missing"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[tokio::test]
async fn the_example_runs() {
    within(async {
        let origin = Origin::answering(OK).await;
        let built = std::process::Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "embed_axum"])
            .status()
            .unwrap();
        assert!(built.success());
        let target = std::path::Path::new(env!("CARGO_BIN_EXE_tollgate")).parent().unwrap();
        let mut child = std::process::Command::new(target.join("examples/embed_axum"))
            .args(["127.0.0.1:0", &origin.to_string()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap().parse().unwrap();
        let mine = client::get(address, "/mine", "").await;
        let theirs = client::get(address, "/anything", "").await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(mine.text(), "answered by the application itself\n");
        assert_eq!(theirs.text(), "theirs");
    })
    .await;
}
