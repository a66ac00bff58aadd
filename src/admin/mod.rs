//! The admin listener: is it alive, is it ready, what does it count; and whatever an
//! operator may ask of a running proxy.
//!
//! It answers on the address it is bound to, loopback by default. There, a
//! `Host` that is no loopback name is refused: a page in a browser on this
//! machine could otherwise read it through a name of its own (DNS rebinding).
//! Changes are further guarded: no page may ask for them, and where others than this
//! machine can, a token is needed.

mod api;
mod cache;
mod guard;
mod input;
mod operator;
mod socket;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::FutureExt as _;

use crate::accept::Aside;
use crate::drain;
use crate::observe::Metrics;
use crate::respond::{Answer, Format};

use socket::{Accepting, Peer};

pub use guard::Token;
pub use operator::{
    Confirmed, DRY_RUN_PERSISTS, LOG_LEVEL_PERSISTS, LastReload, ORIGIN_PERSISTS, Operator,
    PendingConfirm, Refused, Reload, Reloaded, Reply, Status, Upgraded,
};

/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Whether the proxy takes traffic. Cheap to clone; all clones say the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    ready: AtomicBool,
    ending: AtomicBool,
}

/// What the admin listener tells of, and whom it has carry out what is asked.
#[derive(Clone, Debug)]
pub struct AdminState {
    metrics: Metrics,
    ready: Readiness,
    drain: drain::Watcher,
    operator: Option<Arc<dyn Operator>>,
    token: Token,
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
        Self { metrics, ready, drain, operator: None, token: Token::default() }
    }

    /// Has what is asked carried out by `operator`; without one, all of `/api` is
    /// answered 501.
    #[must_use]
    pub fn operated_by(mut self, operator: Arc<dyn Operator>) -> Self {
        self.operator = Some(operator);
        self
    }

    /// Asks for this token.
    #[must_use]
    pub fn guarded_by(mut self, token: Token) -> Self {
        self.token = token;
        self
    }

    /// What it is up to, in one word.
    fn phase(&self) -> &'static str {
        if self.ready.is_ending() || self.drain.is_draining() {
            "draining"
        } else if self.ready.get() {
            "ready"
        } else {
            "starting"
        }
    }
}

/// Serves until `ended` resolves, which is after the drain: readiness is asked
/// for to the last.
///
/// # Errors
///
/// The listener cannot be polled.
pub async fn serve(
    socket: Aside,
    state: AdminState,
    ended: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let address = socket.local_addr();
    let service = router(state, address).into_make_service_with_connect_info::<Peer>();
    let ended = ended.shared();
    let served = axum::serve(Accepting(socket), service).with_graceful_shutdown(ended.clone());
    // Whoever asked for the end, as by an upgrade, is still answered. A connection that
    // lingers must not hold it up.
    tokio::select! {
        served = served => served,
        () = async { ended.await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
    }
}

fn router(state: AdminState, address: SocketAddr) -> Router {
    let guard = guard::Guard { address, token: state.token.clone() };
    Router::new()
        .route("/", get(index))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .merge(api::router())
        .method_not_allowed_fallback(|fields: HeaderMap| async move {
            let detail = "This path does not take that method.";
            refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail, &fields)
        })
        .fallback(|fields: HeaderMap| async move {
            let detail = "There is no such path; `/` lists those that there are.";
            refuse(StatusCode::NOT_FOUND, "not_found", detail, &fields)
        })
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(state)
}

async fn index() -> Html<String> {
    let mut page = "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
                    <title>Tollgate</title>\n<h1>Tollgate</h1>\n<ul>\n\
                    <li><a href=/livez>livez</a>: the process runs\n\
                    <li><a href=/readyz>readyz</a>: it takes traffic\n\
                    <li><a href=/metrics>metrics</a>: what it counts\n</ul>\n<dl>\n"
        .to_owned();
    for (path, purpose) in api::PATHS {
        let linked = path.strip_prefix("GET ").map(|path| format!("GET <a href={path}>{path}</a>"));
        let path = linked.as_deref().unwrap_or(path);
        let _infallible = writeln!(page, "<dt><code>{path}</code><dd>{purpose}");
    }
    page.push_str("</dl>\n");
    Html(page)
}

async fn readyz(State(state): State<AdminState>) -> (StatusCode, String) {
    let phase = state.phase();
    let ready = phase == "ready";
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{phase}\n"))
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, open_metrics)], state.metrics.render())
}

fn refuse(
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
    fields: &HeaderMap,
) -> Response {
    Answer::new(status, code, detail).render::<axum::body::Body>(Format::preferred(fields))
}
