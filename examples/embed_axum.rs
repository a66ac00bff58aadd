//! Tollgate inside an axum application: `/mine` is the application's own,
//! everything else goes to an origin.
//!
//! ```console
//! $ tollgate demo-origin --address 127.0.0.1:6201 &
//! $ cargo run --example embed_axum -- 127.0.0.1:8080 http://127.0.0.1:6201
//! $ curl -i http://127.0.0.1:8080/mine
//! $ curl -i http://127.0.0.1:8080/theirs
//! ```

use std::net::SocketAddr;
use std::num::NonZeroU32;

use axum::Router;
use axum::routing::get;
use tollgate::Proxy;
use tollgate::config::RouteSettings;
use tollgate::layers::RateLimitSettings;
use tollgate::route::{Action, ForwardAction, Match};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let origin = arguments.next().unwrap_or_else(|| "http://127.0.0.1:6201".to_owned());

    let to_origin = Action::Forward(ForwardAction::new("origin"));
    let mut everything = RouteSettings::new("everything", Match::default(), to_origin);
    if let (Some(rate), Some(burst)) = (NonZeroU32::new(50), NonZeroU32::new(100)) {
        everything.rate_limits = vec![RateLimitSettings::per_second(rate).burst(burst)];
    }
    let proxy = Proxy::builder().upstream("origin", [origin]).route(everything).build()?;

    let app = Router::new()
        .route("/mine", get(|| async { "answered by the application itself\n" }))
        .fallback_service(proxy.into_service());

    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    // The rate limit goes by the client's address, which axum has to hand on.
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
