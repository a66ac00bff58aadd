//! Active health checks: one task for an upstream, one loop for each origin.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{HeaderValue, Method, Request, Uri, header};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::connect::Dialled;
use super::{HealthCheck, Origin, Probe, StatusRange, Upstream, Verdict};
use crate::body::Body;
use crate::error::{Error, Side};
use crate::proxy_protocol::Announced;

/// Probes every origin, again and again. Runs until dropped.
pub(super) async fn run(upstream: &Upstream, check: &HealthCheck) {
    let mut changes = upstream.changes();
    let mut watched: Vec<Arc<Origin>> = Vec::new();
    let mut loops = FuturesUnordered::new();
    loop {
        watched.retain(|origin| !origin.is_retired());
        for origin in upstream.origins() {
            if !watched.iter().any(|known| Arc::ptr_eq(known, &origin)) {
                watched.push(origin.clone());
                loops.push(watch(upstream, origin, check));
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            Some(()) = loops.next(), if !loops.is_empty() => {}
        }
    }
}

/// Probes one origin until it leaves the upstream.
async fn watch(upstream: &Upstream, origin: Arc<Origin>, check: &HealthCheck) {
    let origin = &origin;
    let random = RandomState::new();
    // One that is known goes on as if nothing had happened.
    if let Some(last) = origin.standing().last_probe().filter(|_| upstream.life.same_probes) {
        tokio::time::sleep_until(last + jittered(check.interval, random.hash_one(origin.name())))
            .await;
    }
    for round in 0_u64.. {
        if origin.is_retired() {
            return;
        }
        let outcome = match tokio::time::timeout(check.timeout, probe(origin, &check.probe)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Fault::Origin(format!("no answer within {:?}", check.timeout))),
        };
        if origin.is_retired() {
            return;
        }
        origin.standing().probe_ended();
        upstream.metrics.probe_finished(upstream.name(), origin.shared_name(), outcome.is_ok());
        match outcome {
            Ok(()) => upstream.report(origin, Verdict::ProbeOk),
            Err(Fault::Origin(reason)) => upstream.report(origin, Verdict::ProbeFailed(reason)),
            Err(Fault::Ours(reason)) => tracing::warn!(reason, "a health check was not possible"),
        }
        tokio::time::sleep(jittered(check.interval, random.hash_one(round))).await;
    }
}

/// `interval`, moved by up to a tenth either way, so that many proxies that
/// started together do not probe together.
fn jittered(interval: Duration, random: u64) -> Duration {
    let share = (random % 2_001) as f64 / 10_000.0;
    interval.mul_f64(0.9 + share)
}

/// Why a probe did not succeed.
enum Fault {
    /// The origin is not healthy.
    Origin(String),
    /// This machine had not what a probe takes; it says nothing of the origin.
    Ours(String),
}

/// Tries once.
async fn probe(origin: &Origin, probe: &Probe) -> Result<(), Fault> {
    let deadline = origin.connector().deadline();
    let dialled =
        origin.connector().dial(false, Announced::Local, deadline).await.map_err(|error| {
            let fault = if error.side() == Side::Upstream { Fault::Origin } else { Fault::Ours };
            fault(error.chain())
        })?;
    ask(origin, probe, dialled).await.map_err(Fault::Origin)
}

async fn ask(origin: &Origin, probe: &Probe, dialled: Dialled) -> Result<(), String> {
    let Probe::Http { method, path, host, expect } = probe else { return Ok(()) };
    let host = match host {
        Some(host) => HeaderValue::try_from(host.as_str()).ok(),
        None => origin.host().cloned(),
    };
    let request = request(origin, method, path, host, dialled.http2).map_err(|e| e.to_string())?;
    let io = TokioIo::new(dialled.stream);
    let response = if dialled.http2 {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), io).await.map_err(said)?;
        drive(connection, sender.send_request(request)).await
    } else {
        let (mut sender, connection) = http1::handshake(io).await.map_err(said)?;
        drive(connection, sender.send_request(request)).await
    };
    let status = response.map_err(said)?.status();
    if expect.iter().any(|range: &StatusRange| range.contains(status)) {
        Ok(())
    } else {
        Err(format!("answered {}", status.as_u16()))
    }
}

fn request(
    origin: &Origin,
    method: &Method,
    path: &Uri,
    host: Option<HeaderValue>,
    http2: bool,
) -> Result<Request<Body>, http::Error> {
    let mut request = Request::builder().method(method).uri(path).body(Body::empty())?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("tollgate-health-check"));
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
    if http2 {
        origin.address(&mut request);
    }
    Ok(request)
}

/// Drives the connection just as long as the answer takes.
async fn drive<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = hyper::Result<T>>,
) -> hyper::Result<T> {
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

fn said(error: hyper::Error) -> String {
    Error::new(crate::error::Kind::ConnectionTerminated).because(error).chain()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_secs(10);
        for random in [0, 1, 1000, 2000, 2001, u64::MAX] {
            let moved = jittered(interval, random);
            assert!((9.0..=11.0).contains(&moved.as_secs_f64()), "{moved:?}");
        }
    }
}
