//! An axum application that forwards all it is asked, by one of three services:
//! Tollgate's, that of the crate `axum-reverse-proxy`, or a handler around
//! hyper-util's client, as in axum's example of a reverse proxy.
//!
//! ```console
//! $ cargo build --release --manifest-path benches/peers/embedded/Cargo.toml
//! $ embedded-peer tollgate-service 127.0.0.1:8080 http://127.0.0.1:3000 1
//! ```
//!
//! Runtime, allocator and server are the same for all three. It is measured by
//! `cargo bench --bench side_by_side -- embedded`.

use std::error::Error;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use axum_reverse_proxy::ReverseProxy;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [service, address, origin, threads] = &arguments[..] else {
        return Err("embedded-peer SERVICE ADDRESS ORIGIN THREADS".into());
    };
    let address: SocketAddr = address.parse()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(threads.parse()?).enable_all();
    runtime.build()?.block_on(async {
        let app = app(service, origin)?;
        let listener = TcpListener::bind(address).await?.tap_io(|stream| {
            let _slower_at_worst = stream.set_nodelay(true);
        });
        // A task of the runtime, since this thread is none of its workers.
        let serving =
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
        Ok(tokio::spawn(serving.into_future()).await??)
    })
}

fn app(service: &str, origin: &str) -> Result<Router> {
    Ok(match service {
        "tollgate-service" => {
            let proxy = tollgate::Proxy::builder()
                .upstream("origin", [origin])
                .forward("/", "origin")
                .build()?
                .into_service();
            Router::new().fallback_service(proxy)
        }
        "axum-reverse-proxy" => ReverseProxy::new("/", origin).into(),
        "axum-example" => {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            let client = Client::builder(TokioExecutor::new()).build(connector);
            Router::new()
                .fallback(forward)
                .with_state(Example { client, origin: origin.to_owned() })
        }
        other => return Err(format!("no service `{other}`").into()),
    })
}

/// What the handler needs.
#[derive(Clone)]
struct Example {
    client: Client<HttpConnector, Body>,
    origin: String,
}

/// Sends a request on as it is, to the origin.
async fn forward(State(example): State<Example>, mut request: Request) -> Response {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let Ok(uri) = Uri::try_from(format!("{}{target}", example.origin)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    *request.uri_mut() = uri;
    match example.client.request(request).await {
        Ok(response) => response.into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
