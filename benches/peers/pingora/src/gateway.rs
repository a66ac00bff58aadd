//! The phases of a request.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::lb::LoadBalancer;
use pingora::lb::selection::RoundRobin;
use pingora::proxy::{ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use crate::log::AccessLog;
use crate::tokens::TokenBuckets;

/// What is asked of a request besides being one.
pub struct Policies {
    pub tokens: TokenBuckets,
    pub key: Vec<u8>,
}

/// The proxy.
pub struct Gateway {
    origins: Arc<LoadBalancer<RoundRobin>>,
    policies: Option<Policies>,
    log: Option<AccessLog>,
}

impl Gateway {
    pub fn new(
        origins: Arc<LoadBalancer<RoundRobin>>,
        policies: Option<Policies>,
        log: Option<AccessLog>,
    ) -> Self {
        Self { origins, policies, log }
    }
}

/// What a request carries from phase to phase.
pub struct Context {
    started: Instant,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context { started: Instant::now() }
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let Some(policies) = &self.policies else { return Ok(false) };
        let client = session.client_addr().and_then(|address| address.as_inet());
        if client.is_some_and(|client| !policies.tokens.take(client.ip(), context.started)) {
            session.respond_error(429).await?;
            return Ok(true);
        }
        if !is_same(session.get_header_bytes("x-api-key"), &policies.key) {
            session.respond_error(401).await?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _context: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        let no_origin = || Error::explain(ErrorType::HTTPStatus(503), "no origin is healthy");
        let origin = self.origins.select(b"", 256).ok_or_else(no_origin)?;
        Ok(Box::new(HttpPeer::new(origin, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _context: &mut Context,
    ) -> Result<()> {
        // Hop-by-hop fields are taken off by Pingora's own policy.
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            let before = request.headers.get("x-forwarded-for").and_then(|v| v.to_str().ok());
            let chain = match before {
                Some(before) => format!("{before}, {}", client.ip()),
                None => client.ip().to_string(),
            };
            request.insert_header("x-forwarded-for", chain)?;
        }
        let is_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        request.insert_header("x-forwarded-proto", if is_tls { "https" } else { "http" })?;
        if self.policies.is_some() {
            request.remove_header("x-api-key");
            request.insert_header("x-gateway", "bench")?;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        _context: &mut Context,
    ) -> Result<()> {
        if self.policies.is_some() {
            response.remove_header("x-powered-by");
            response.insert_header("x-frame-options", "DENY")?;
        }
        Ok(())
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Context) {
        if let Some(log) = &self.log {
            log.write(session, context.started.elapsed());
        }
    }
}

/// Compares in a time that does not tell where the difference is.
fn is_same(given: &[u8], key: &[u8]) -> bool {
    given.len() == key.len() && given.iter().zip(key).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}
