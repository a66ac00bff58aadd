//! How far a request has come through the limits of a layer.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, Request, Response, StatusCode};

use super::RateLimitLayer;
use super::asker::Asker;
use super::decision::{Checked, Deciding, Decision};
use super::limit::{Key, Limit};
use crate::context::Exchange;
use crate::respond::{Answer, Format};

/// What was found out of a request on its way through the limits.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The limit that is asked next.
    at: usize,
    /// What is done with the response; mostly nothing.
    after: Option<Box<After>>,
    /// Fields that are taken out of it, whoever was counted.
    hidden: Option<Arc<[HeaderName]>>,
}

/// What is done with the response of a request that passes.
#[derive(Debug, Default)]
struct After {
    /// What the client is told.
    told: Vec<(Limit, Key, Decision)>,
    /// Limits that the origin may tell the cost to, with what they have taken already.
    due: Vec<(Limit, Key, u32)>,
    exchange: Option<Exchange>,
}

/// What comes next.
pub(super) enum Step {
    /// The request passes.
    Pass,
    /// It is refused.
    Refuse(Box<Refusal>),
    /// It waits for a decision.
    Wait(Waiting),
}

/// A decision that is waited for, and whom it is about.
pub(super) struct Waiting {
    pub(super) deciding: Deciding,
    pub(super) asked: Asked,
}

/// Whom a limit was asked about.
pub(super) struct Asked {
    key: Key,
    cost: u32,
}

/// Why a request is refused.
pub(super) struct Refusal {
    limit: Limit,
    key: Key,
    decision: Decision,
}

impl Progress {
    /// Asks the limits that have not been asked.
    pub(super) fn go_on<B>(&mut self, layer: &RateLimitLayer, request: &Request<B>) -> Step {
        let asker = Asker::of(request);
        while let Some(limit) = layer.limits.get(self.at) {
            let Some(key) = limit.key(&asker) else {
                self.at += 1;
                continue;
            };
            let cost = limit.cost(request.method(), &key);
            let checked = limit.check(&key, cost);
            let asked = Asked { key, cost: cost.get() };
            match checked {
                Checked::Now(decision) => {
                    if let Some(refused) = self.decided(layer, &asker, asked, decision) {
                        return Step::Refuse(Box::new(refused));
                    }
                }
                Checked::Later(deciding) => return Step::Wait(Waiting { deciding, asked }),
            }
        }
        self.hidden = (!layer.hidden.is_empty()).then(|| layer.hidden.clone());
        Step::Pass
    }

    /// Goes on behind a decision that was waited for.
    pub(super) fn go_on_after<B>(
        &mut self,
        decision: Decision,
        asked: Asked,
        layer: &RateLimitLayer,
        request: &Request<B>,
    ) -> Step {
        match self.decided(layer, &Asker::of(request), asked, decision) {
            Some(refused) => Step::Refuse(Box::new(refused)),
            None => self.go_on(layer, request),
        }
    }

    /// The limit that was asked has decided.
    fn decided(
        &mut self,
        layer: &RateLimitLayer,
        asker: &Asker<'_>,
        asked: Asked,
        decision: Decision,
    ) -> Option<Refusal> {
        let limit = layer.limits.get(self.at)?;
        self.at += 1;
        let Asked { key, cost } = asked;
        if !limit.admits(&key, &decision, asker) {
            return Some(Refusal { limit: limit.clone(), key, decision });
        }
        let tells = layer.tells && limit.holds(&key);
        if tells || limit.cost_header().is_some() {
            let after = self.after.get_or_insert_default();
            if limit.cost_header().is_some() {
                // What would be refused but for a dry run has taken nothing.
                let taken = if decision.admitted { cost } else { 0 };
                after.due.push((limit.clone(), key.clone(), taken));
                after.exchange = asker.exchange().cloned();
            }
            if tells {
                after.told.push((limit.clone(), key, decision));
            }
        }
        None
    }

    /// Does with a response what is to be done.
    pub(super) fn finish(&mut self, headers: &mut HeaderMap) {
        let after = self.after.take().unwrap_or_default();
        after.charge(headers);
        for name in self.hidden.iter().flat_map(|hidden| &**hidden) {
            headers.remove(name);
        }
        for (limit, key, decision) in &after.told {
            limit.tell(headers, key, decision);
        }
    }
}

impl After {
    /// Takes what the origin says that the request has cost.
    fn charge(&self, headers: &mut HeaderMap) {
        // What was stored has cost nothing.
        let asked = |exchange: &Exchange| exchange.read(|record| record.attempts > 0);
        let asked = self.exchange.as_ref().is_none_or(asked);
        for (limit, key, taken) in &self.due {
            let Some((name, _)) = limit.cost_header() else { continue };
            match cost(headers, name) {
                Some(cost) if asked && cost > *taken => limit.charge(key, cost - taken),
                _ => {}
            }
        }
    }
}

/// A whole number, as much of it as counts; `None` if it is none.
fn cost(headers: &HeaderMap, name: &HeaderName) -> Option<u32> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u32::MAX))
}

impl Refusal {
    /// The answer to the request.
    pub(super) fn render<B, ResB: From<bytes::Bytes>>(
        &self,
        request: &Request<B>,
    ) -> Response<ResB> {
        let Self { limit, key, decision } = self;
        let answer = if decision.counted {
            let detail = "Too many requests; slow down.";
            Answer::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
                .retry_after(decision.wait)
        } else {
            let detail = "Whether this request may pass cannot be told now.";
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "rate_limit_unavailable", detail)
                .retry_after(Duration::from_secs(1))
        };
        if let Some(exchange) = request.extensions().get::<Exchange>() {
            let name = limit.settings().name.clone();
            exchange.update(|record| {
                (record.rejection, record.limit) = (Some(answer.code()), Some(name));
            });
        }
        let mut response = answer.render(Format::preferred(request.headers()));
        limit.tell(response.headers_mut(), key, decision);
        response
    }
}
