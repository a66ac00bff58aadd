//! The admin listener: is it alive, is it ready, what does it count.
//!
//! It answers on the address it is bound to, loopback by default. There, a
//! `Host` that is no loopback name is refused: a page in a browser on this
//! machine could otherwise read it through a name of its own (DNS rebinding).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use crate::drain;
use crate::observe::Metrics;
use crate::respond::{Answer, Format};
use crate::route::host_of;

/// Whether the proxy takes traffic. Cheap to clone; all clones say the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    ready: AtomicBool,
    ending: AtomicBool,
}

/// What the admin listener tells of.
#[derive(Clone, Debug)]
pub struct AdminState {
    metrics: Metrics,
    ready: Readiness,
    drain: drain::Watcher,
}

impl Readiness {
    /// Says whether the proxy takes traffic.
    pub fn set(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// Says that the proxy is about to go, though it may still take traffic.
    pub fn end(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }
}

impl AdminState {
    /// Tells of these.
    #[must_use]
    pub fn new(metrics: Metrics, ready: Readiness, drain: drain::Watcher) -> Self {
        Self { metrics, ready, drain }
    }
}

/// Serves until `ended` resolves, which is after the drain: readiness is asked
/// for to the last.
///
/// # Errors
///
/// The listener cannot be polled.
pub async fn serve(
    listener: impl axum::serve::Listener<Addr = SocketAddr>,
    state: AdminState,
    ended: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let router = router(state, address);
    // An admin connection that idles must not hold up the end.
    tokio::select! {
        served = axum::serve(listener, router) => served,
        () = ended => Ok(()),
    }
}

fn router(state: AdminState, address: SocketAddr) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(|headers: HeaderMap| async move {
            let detail = "The admin listener has /livez, /readyz and /metrics.";
            refuse(StatusCode::NOT_FOUND, "not_found", detail, &headers)
        })
        .layer(middleware::from_fn_with_state(address, local_host_only))
        .with_state(state)
}

async fn index() -> Html<&'static str> {
    Html(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<title>Tollgate</title>\n\
         <h1>Tollgate</h1>\n<ul>\n<li><a href=/livez>livez</a>: the process runs\n\
         <li><a href=/readyz>readyz</a>: it takes traffic\n\
         <li><a href=/metrics>metrics</a>: what it counts\n</ul>\n",
    )
}

async fn readyz(State(state): State<AdminState>) -> (StatusCode, &'static str) {
    if state.ready.is_ending() || state.drain.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if state.ready.get() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, open_metrics)], state.metrics.render())
}

async fn local_host_only(
    State(address): State<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let host = host_of(&request).unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = bare == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|host| host.is_loopback());
    if !address.ip().is_loopback() || is_local {
        return next.run(request).await;
    }
    let detail = "The admin listener answers to localhost only.";
    refuse(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail, request.headers())
}

fn refuse(
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
    headers: &HeaderMap,
) -> Response {
    Answer::new(status, code, detail).render::<axum::body::Body>(Format::preferred(headers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn ask(state: &AdminState, host: &str, path: &str) -> (u16, String) {
        let router = router(state.clone(), "127.0.0.1:6190".parse().unwrap());
        let request = Request::get(path).header("host", host).body(axum::body::Body::empty());
        let response = router.oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_life_of_the_proxy() {
        let (ready, trigger) = (Readiness::default(), drain::trigger());
        let state = AdminState::new(Metrics::default(), ready.clone(), trigger.watcher());
        assert_eq!(ask(&state, "localhost", "/livez").await.0, 200);
        assert_eq!(ask(&state, "localhost", "/readyz").await, (503, "starting\n".to_owned()));
        ready.set(true);
        assert_eq!(ask(&state, "localhost", "/readyz").await, (200, "ready\n".to_owned()));
        trigger.drain(std::time::Duration::from_secs(1)).await;
        assert_eq!(ask(&state, "localhost", "/readyz").await, (503, "draining\n".to_owned()));
    }

    #[tokio::test]
    async fn a_strangers_host_is_refused() {
        let state =
            AdminState::new(Metrics::default(), Readiness::default(), drain::Watcher::never());
        for host in ["127.0.0.1:6190", "[::1]:6190", "localhost"] {
            assert_eq!(ask(&state, host, "/livez").await.0, 200, "{host}");
        }
        for host in ["evil.test", "192.0.2.1", ""] {
            assert_eq!(ask(&state, host, "/metrics").await.0, 421, "{host}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_404() {
        let state =
            AdminState::new(Metrics::default(), Readiness::default(), drain::Watcher::never());
        assert_eq!(ask(&state, "localhost", "/nothing").await.0, 404);
        assert!(ask(&state, "localhost", "/metrics").await.1.contains("tollgate_build_info"));
    }
}
