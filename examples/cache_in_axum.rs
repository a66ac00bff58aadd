//! The cache alone, before a handler of an axum application: `/report` takes two
//! seconds to make, and is made once in half a minute, however many ask.
//!
//! ```console
//! $ cargo run --example cache_in_axum -- 127.0.0.1:8080
//! $ curl -i http://127.0.0.1:8080/report     # Cache-Status: tollgate; fwd=uri-miss; …
//! $ curl -i http://127.0.0.1:8080/report     # Cache-Status: tollgate; hit; ttl=…
//! ```

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::http::{Request, Response, header};
use axum::routing::get;
use tollgate::body::Body;
use tollgate::error::Error;
use tollgate::layers::{Cache, CacheLayer, CacheSettings, RescueLayer};
use tower::ServiceBuilder;

async fn report() -> impl axum::response::IntoResponse {
    tokio::time::sleep(Duration::from_secs(2)).await;
    ([(header::CACHE_CONTROL, "max-age=30, stale-while-revalidate=60")], "dear to make\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());

    let cache = Cache::new(64 << 20);
    let reports = ServiceBuilder::new()
        .map_response(|response: Response<Body>| response.map(axum::body::Body::new))
        // What fails below becomes a response.
        .layer(RescueLayer)
        .map_request(|request: Request<axum::body::Body>| request.map(Body::new))
        .layer(CacheLayer::new(&cache, "reports", &CacheSettings::default()))
        .map_response(|response: Response<axum::body::Body>| response.map(Body::new))
        .map_err(|never: Infallible| -> Error { match never {} })
        .map_request(|request: Request<Body>| request.map(axum::body::Body::new))
        .service(get(report));
    let app = Router::new().route_service("/report", reports);

    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
