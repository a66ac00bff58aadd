//! How one exchange reads as a line of the access log.
//!
//! Whatever a client sent is escaped: a line is one line, and holds nothing
//! that a terminal obeys.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderValue, Version};
use serde::Serialize;

use crate::context::{Facts, Record, RequestLine};

/// Query parameters whose values are not logged.
const SECRET_PARAMETERS: [&str; 9] =
    ["access_token", "api_key", "apikey", "key", "password", "secret", "sig", "signature", "token"];

/// A line for people: what everybody looks for first, then `key=value` pairs.
pub(super) fn text(exchange: &Facts) -> String {
    let record = exchange.read(Clone::clone);
    let request = exchange.request();
    let mut line = String::with_capacity(256);
    let client = record.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
    let status = record.status.map_or_else(|| "-".to_owned(), |status| status.as_str().to_owned());
    // Writing to a string does not fail.
    let _ = write!(
        line,
        "{} {client} \"{} {} {}\" {status} in={} out={} ms={:.3}",
        now(),
        escaped(request.method.as_str()),
        escaped(&target(request)),
        version(request.version),
        record.request_bytes,
        record.response_bytes,
        milliseconds(exchange.elapsed()),
    );
    let mut pair = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            let plain = value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
            let _ = if plain && !value.is_empty() {
                write!(line, " {key}={value}")
            } else {
                write!(line, " {key}=\"{}\"", escaped(value))
            };
        }
    };
    let timing = |took: Option<Duration>| took.map(|took| format!("{:.3}", milliseconds(took)));
    pair("host", text_of(request.host.as_ref()).as_deref());
    pair("route", record.route.as_ref().map(|route| &*route.name));
    pair("identity", record.identity.as_deref());
    pair("origin", record.origin.as_deref());
    pair("attempts", (record.attempts > 1).then(|| record.attempts.to_string()).as_deref());
    pair("rejected", record.rejection);
    pair("error", record.error.as_deref());
    pair("policy_ms", timing(record.policy).as_deref());
    pair("connect_ms", timing(record.connect).as_deref());
    pair("head_ms", timing(record.response_head).as_deref());
    pair("aborted", (!record.complete).then_some("true"));
    pair("id", text_of(record.request_id.as_ref()).as_deref());
    pair("agent", text_of(request.user_agent.as_ref()).as_deref());
    line.push('\n');
    line
}

/// JSON escapes the control characters of ASCII only; terminals obey others too.
fn without_c1(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{80}'..='\u{9f}' => {
                let _ = write!(line, "\\u{:04x}", u32::from(character));
            }
            other => line.push(other),
        }
    }
    line
}

/// A field's value as text, whatever bytes it has.
fn text_of(value: Option<&HeaderValue>) -> Option<Cow<'_, str>> {
    value.map(|value| String::from_utf8_lossy(value.as_bytes()))
}

/// A line for programs.
pub(super) fn json(exchange: &Facts) -> String {
    let record = exchange.read(Clone::clone);
    let request = exchange.request();
    let downstream = exchange.downstream();
    let timing = |took: Option<Duration>| took.map(milliseconds);
    let line = JsonLine {
        time: now(),
        client: record.client.map(|client| client.to_string()),
        peer: downstream.peer.map(|peer| peer.to_string()),
        listener: &downstream.listener,
        tls: downstream.tls.as_ref().map(|tls| tls.version),
        method: request.method.as_str(),
        target: target(request),
        version: version(request.version),
        host: text_of(request.host.as_ref()),
        status: record.status.map(|status| status.as_u16()),
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
        duration_ms: milliseconds(exchange.elapsed()),
        policy_ms: timing(record.policy),
        connect_ms: timing(record.connect),
        response_head_ms: timing(record.response_head),
        complete: record.complete,
        record: &record,
        user_agent: text_of(request.user_agent.as_ref()),
        referer: text_of(request.referer.as_ref()),
    };
    // Numbers and strings always serialise.
    let mut line = serde_json::to_string(&line).unwrap_or_default();
    if !line.is_ascii() {
        line = without_c1(&line);
    }
    line.push('\n');
    line
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    method: &'a str,
    target: String,
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

/// What the phases learnt, as far as they did.
fn learnt<S: serde::Serializer>(record: &&Record, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut map = serializer.serialize_map(None)?;
    let request_id = text_of(record.request_id.as_ref());
    let fields = [
        ("request_id", request_id.as_deref()),
        ("route", record.route.as_ref().map(|route| &*route.name)),
        ("identity", record.identity.as_deref()),
        ("upstream", record.upstream.as_deref()),
        ("origin", record.origin.as_deref()),
        ("rejected", record.rejection),
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

/// The time, to the millisecond. What changes once a second is written once a
/// second.
fn now() -> String {
    thread_local! {
        static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let now = jiff::Timestamp::now();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != now.as_second() {
            *second = now.as_second();
            *text = now.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
        format!("{text}.{:03}Z", now.subsec_millisecond())
    })
}

/// Milliseconds, to the microsecond.
#[allow(clippy::cast_precision_loss, reason = "no exchange lasts for 285 years")]
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// Path and query, without the values of secret parameters.
fn target(request: &RequestLine) -> String {
    let path = request.uri.path();
    let Some(query) = request.uri.query() else { return path.to_owned() };
    let mut target = String::with_capacity(path.len() + query.len() + 1);
    target.push_str(path);
    for (index, pair) in query.split('&').enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => {
                target.push_str(name);
                target.push_str("=***");
            }
            _ => target.push_str(pair),
        }
    }
    target
}

fn is_secret(name: &str) -> bool {
    SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// Text without quotes, backslashes, control characters or bidi tricks.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            ' '..='~' => escaped.push(c),
            c if c.is_alphanumeric() => escaped.push(c),
            c => escaped.extend(c.escape_unicode()),
        }
    }
    escaped
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::context::{Downstream, Exchange, Route};
    use http::{Method, StatusCode, Uri};
    use std::sync::Arc;

    pub(in crate::observe) fn exchange(target: &str) -> Exchange {
        let downstream = Downstream {
            peer: Some("192.0.2.1:4711".parse().unwrap()),
            listener: "public".into(),
            ..Downstream::default()
        };
        let request = RequestLine {
            method: Method::GET,
            uri: target.parse::<Uri>().unwrap(),
            version: Version::HTTP_11,
            host: Some(HeaderValue::from_static("a.test")),
            user_agent: HeaderValue::from_bytes("evil\"\u{9b}31mred".as_bytes()).ok(),
            referer: None,
            accept: None,
            content_type: None,
            fields: 0,
        };
        let exchange = Exchange::open(Arc::new(downstream), request, None);
        exchange.update(|record| {
            record.status = Some(StatusCode::OK);
            record.route = Some(Route::named("demo"));
            record.complete = true;
        });
        exchange
    }

    #[test]
    fn a_text_line_starts_with_what_everybody_looks_for() {
        let line = text(&exchange("/x?a=b"));
        let rest = line.split_once(' ').unwrap().1;
        assert!(rest.starts_with("192.0.2.1 \"GET /x?a=b HTTP/1.1\" 200 in=0 out=0 ms="), "{line}");
        assert!(line.contains(" route=demo"), "{line}");
        assert!(!line.contains("aborted"), "{line}");
    }

    #[test]
    fn nothing_a_client_sends_breaks_out_of_its_line() {
        for line in [text(&exchange("/x")), json(&exchange("/x"))] {
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            assert!(!line.contains('\u{9b}'), "{line:?}");
        }
        assert!(text(&exchange("/x")).contains(r#"agent="evil\"\u{9b}31mred""#));
        let agent = serde_json::from_str::<serde_json::Value>(&json(&exchange("/x"))).unwrap();
        assert_eq!(agent["user_agent"], "evil\"\u{9b}31mred");
        let exchange = exchange("/x");
        exchange.update(|record| record.error = Some("\n\u{1b}[31mred".to_owned()));
        assert!(text(&exchange).contains(r#"error="\u{a}\u{1b}[31mred""#));
    }

    #[test]
    fn a_json_line_is_json_with_what_is_known() {
        let line: serde_json::Value = serde_json::from_str(&json(&exchange("/x"))).unwrap();
        assert_eq!(line["status"], 200);
        assert_eq!(line["route"], "demo");
        assert_eq!(line["client"], "192.0.2.1");
        assert!(line["duration_ms"].is_f64());
        assert!(line.get("origin").is_none());
    }

    #[test]
    fn a_client_that_went_away_has_no_status() {
        let exchange = exchange("/x");
        exchange.update(|record| (record.status, record.complete) = (None, false));
        let line = text(&exchange);
        assert!(line.contains("\" - in=") && line.contains("aborted=true"), "{line}");
    }

    #[test]
    fn secrets_in_the_query_are_not_logged() {
        let line = text(&exchange("/x?token=abc&page=2&API_KEY=def"));
        assert!(line.contains("/x?token=***&page=2&API_KEY=*** "), "{line}");
    }
}
