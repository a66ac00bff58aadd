//! A line for people: what everybody looks for first, then `key=value` pairs.

use std::convert::Infallible;
use std::time::Duration;

use http::HeaderValue;

use super::write::{address, escaped, host, milliseconds, number, pair, target, with_time};
use super::{Moment, secrets, version};
use crate::context::{Facts, Record};

/// Appends the line.
pub(in crate::observe) fn text(exchange: &Facts, into: &mut Vec<u8>) {
    text_at(exchange, Moment::of(exchange), into);
}

pub(super) fn text_at(exchange: &Facts, at: Moment, into: &mut Vec<u8>) {
    exchange.read(|record| {
        head(exchange, record, at, into);
        pairs(exchange, record, into);
    });
    into.push(b'\n');
}

fn head(exchange: &Facts, record: &Record, at: Moment, into: &mut Vec<u8>) {
    let request = exchange.request();
    with_time(at.now, |now| into.extend_from_slice(now.as_bytes()));
    into.push(b' ');
    client(exchange, record, into);
    into.extend_from_slice(b" \"");
    escaped(into, request.method.as_str().as_bytes());
    into.push(b' ');
    let Ok(()) = target(request, secrets(record), |piece| {
        escaped(into, piece.as_bytes());
        Ok::<(), Infallible>(())
    });
    into.push(b' ');
    into.extend_from_slice(version(request.version).as_bytes());
    into.extend_from_slice(b"\" ");
    into.extend_from_slice(record.status.as_ref().map_or("-", |status| status.as_str()).as_bytes());
    into.extend_from_slice(b" in=");
    number(into, record.request_bytes);
    into.extend_from_slice(b" out=");
    number(into, record.response_bytes);
    into.extend_from_slice(b" ms=");
    milliseconds(into, at.elapsed);
}

fn client(exchange: &Facts, record: &Record, into: &mut Vec<u8>) {
    let downstream = exchange.downstream();
    match record.client {
        None => into.push(b'-'),
        // An IPv6 address is dear to write, and the connection has it as text.
        Some(client) if client.is_ipv6() && downstream.peer_address() == Some(client) => {
            into.extend_from_slice(downstream.peer_text().map_or(b"-", HeaderValue::as_bytes));
        }
        Some(client) => address(into, client),
    }
}

fn pairs(exchange: &Facts, record: &Record, into: &mut Vec<u8>) {
    let request = exchange.request();
    pair(into, " host=", request.host.as_ref().map(host));
    pair(into, " route=", record.route.as_ref().map(|route| &*route.name));
    pair(into, " identity=", record.identity.as_ref().map(|identity| &*identity.name));
    let tls = exchange.downstream().tls.as_ref();
    let certificate = tls.and_then(|tls| tls.client.as_deref());
    pair(into, " certificate=", certificate.map(|one| &*one.subject));
    pair(into, " cache=", record.cache);
    pair(into, " origin=", record.origin.as_deref());
    if record.attempts > 1 {
        into.extend_from_slice(b" attempts=");
        number(into, record.attempts.into());
    }
    pair(into, " rejected=", record.rejection);
    pair(into, " limit=", record.limit.as_deref());
    pair(into, " error=", record.error.as_deref());
    timing(into, " policy_ms=", record.policy);
    timing(into, " connect_ms=", record.connect);
    timing(into, " head_ms=", record.response_head);
    if !record.complete {
        into.extend_from_slice(b" aborted=true");
    }
    pair(into, " id=", record.request_id.as_ref());
    pair(into, " agent=", request.user_agent.as_ref());
}

fn timing(into: &mut Vec<u8>, key: &str, took: Option<Duration>) {
    if let Some(took) = took {
        into.extend_from_slice(key.as_bytes());
        milliseconds(into, took);
    }
}
