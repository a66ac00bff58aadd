//! A line for programs.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde::{Serialize, Serializer};

use super::write::{host, target, url, with_time};
use super::{Moment, secrets, version};
use crate::context::{Facts, Record, RequestLine};

/// Appends the line.
pub(in crate::observe) fn json(exchange: &Facts, into: &mut Vec<u8>) {
    json_at(exchange, Moment::of(exchange), into);
}

pub(super) fn json_at(exchange: &Facts, at: Moment, into: &mut Vec<u8>) {
    let start = into.len();
    exchange.read(|record| {
        with_time(at.now, |now| {
            // Numbers and strings always serialise, and writing to a buffer does
            // not fail.
            let _ = serde_json::to_writer(&mut *into, &line(exchange, record, now, at.elapsed));
        });
    });
    if !into[start..].iter().all(|byte| *byte < b'\x7f') {
        without_tricks(into, start);
    }
    into.push(b'\n');
}

/// JSON escapes most control characters of ASCII; terminals obey others too,
/// viewers break lines at some, and turn what they show at others.
fn without_tricks(into: &mut Vec<u8>, start: usize) {
    let json = into.split_off(start);
    for character in String::from_utf8_lossy(&json).chars() {
        match character {
            '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => {
                let _ = write!(into, "\\u{:04x}", u32::from(character));
            }
            other => into.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// A field's value as text, whatever bytes it has.
fn text_of(value: Option<&HeaderValue>) -> Option<Cow<'_, str>> {
    value.map(|value| String::from_utf8_lossy(value.as_bytes()))
}

/// Milliseconds, to the microsecond.
#[allow(clippy::cast_precision_loss, reason = "no exchange lasts for 285 years")]
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

fn line<'a>(
    exchange: &'a Facts,
    record: &'a Record,
    time: &'a str,
    elapsed: Duration,
) -> JsonLine<'a> {
    let request = exchange.request();
    let downstream = exchange.downstream();
    let certificate = downstream.tls.as_ref().and_then(|tls| tls.client.as_deref());
    JsonLine {
        time,
        client: record.client,
        peer: downstream.peer,
        proxy: downstream.proxy,
        listener: &downstream.listener,
        tls: downstream.tls.as_ref().map(|tls| tls.version),
        client_subject: certificate.map(|one| &*one.subject),
        client_fingerprint: certificate.map(|one| Fingerprint(&one.sha256)),
        method: request.method.as_str(),
        target: Target(request, secrets(record)),
        version: version(request.version),
        host: request.host.as_ref().map(|value| String::from_utf8_lossy(host(value))),
        status: record.status.map(|status| status.as_u16()),
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
        duration_ms: milliseconds(elapsed),
        policy_ms: record.policy.map(milliseconds),
        connect_ms: record.connect.map(milliseconds),
        response_head_ms: record.response_head.map(milliseconds),
        complete: record.complete,
        record,
        user_agent: text_of(request.user_agent.as_ref()),
        referer: text_of(request.referer.as_ref()).map(|text| url(text, secrets(record))),
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    /// Who announced the peer by the PROXY protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<SocketAddr>,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    /// Of the certificate that the client has shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_fingerprint: Option<Fingerprint<'a>>,
    method: &'a str,
    target: Target<'a>,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    /// Absent when the client went away before there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    request_bytes: u64,
    response_bytes: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_head_ms: Option<f64>,
    complete: bool,
    #[serde(flatten, serialize_with = "learnt")]
    record: &'a Record,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<Cow<'a, str>>,
}

/// As it stands in the configuration, too.
struct Fingerprint<'a>(&'a str);

impl Serialize for Fingerprint<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("sha256:{}", self.0))
    }
}

/// Path and query, in the pieces that are logged of them.
struct Target<'a>(&'a RequestLine, &'a [Arc<str>]);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        target(self.0, self.1, |piece| f.write_str(piece))
    }
}

impl Serialize for Target<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the phases learnt, as far as they did.
fn learnt<S: Serializer>(record: &&Record, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut map = serializer.serialize_map(None)?;
    let request_id = text_of(record.request_id.as_ref());
    let fields = [
        ("request_id", request_id.as_deref()),
        ("route", record.route.as_ref().map(|route| &*route.name)),
        ("identity", record.identity.as_ref().map(|identity| &*identity.name)),
        ("cache", record.cache),
        ("upstream", record.upstream.as_deref()),
        ("origin", record.origin.as_deref()),
        ("rejected", record.rejection),
        ("limit", record.limit.as_deref()),
        ("error", record.error.as_deref()),
        ("error_kind", record.error_kind.map(crate::error::Kind::as_str)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            map.serialize_entry(name, value)?;
        }
    }
    map.serialize_entry("attempts", &record.attempts)?;
    map.serialize_entry("upgraded", &record.upgraded)?;
    map.end()
}
