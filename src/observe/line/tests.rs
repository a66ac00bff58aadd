//! What a line reads like, and that it reads so whatever it is about.

use super::*;
use crate::context::{Downstream, Exchange, Identity, RequestLine, Route};
use http::{HeaderValue, Method, StatusCode, Uri};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

fn text(exchange: &Facts) -> String {
    let mut line = Vec::new();
    super::text(exchange, &mut line);
    String::from_utf8(line).unwrap()
}

fn json(exchange: &Facts) -> String {
    let mut line = Vec::new();
    super::json(exchange, &mut line);
    String::from_utf8(line).unwrap()
}

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
    exchange.update(|record| record.error = Some("\u{7f}".to_owned()));
    assert!(json(&exchange).contains(r#""error":"\u007f""#));
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
fn a_client_that_has_shown_a_certificate_is_told_by_it() {
    use crate::context::{ClientCertificate, TlsFacts};
    let certificate = ClientCertificate {
        subject: "CN=web\\,1,O=A \\\"B\\\"".into(),
        common_name: None,
        issuer: "CN=Clients".into(),
        authority: "CN=Clients".into(),
        serial: "1".into(),
        names: Box::default(),
        sha256: "ab12".into(),
        not_after: 0,
        chain: Box::default(),
    };
    let tls = TlsFacts { client: Some(Arc::new(certificate)), ..TlsFacts::default() };
    let downstream = Downstream { tls: Some(tls), ..Downstream::default() };
    let request = exchange("/x").request().clone();
    let exchange = Exchange::open(Arc::new(downstream), request, None);
    let line = text(&exchange);
    assert!(line.contains(r#" certificate="CN=web\\,1,O=A \\\"B\\\"""#), "{line}");
    let line: serde_json::Value = serde_json::from_str(&json(&exchange)).unwrap();
    assert_eq!(line["client_subject"], r#"CN=web\,1,O=A \"B\""#);
    assert_eq!(line["client_fingerprint"], "sha256:ab12");
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

#[test]
fn nor_are_those_that_only_this_proxy_knows_however_they_are_written() {
    let mut request = exchange("/x?%74icket=abc&tickets=1&TICKET=def&ticket").request().clone();
    request.referer = Some(HeaderValue::from_static("https://a.test/y?a=1&ticke%74=abc&k%65y=def"));
    let exchange = Exchange::open(Arc::default(), request, None);
    exchange.update(|record| record.secret_parameters = Some(["ticket".into()].into()));
    let (text, json) = (text(&exchange), json(&exchange));
    for line in [&text, &json] {
        assert!(line.contains("/x?%74icket=***&tickets=1&TICKET=***&ticket"), "{line}");
        assert!(!line.contains("abc") && !line.contains("def"), "{line}");
    }
    assert!(json.contains("https://a.test/y?a=1&ticke%74=***&k%65y=***"), "{json}");
}

#[test]
fn nor_are_those_behind_what_only_some_take_for_a_separator() {
    let target = "/x?a;api_key=abc&b=1;c;token=abc;d&e;f=1";
    let mut request = exchange(target).request().clone();
    request.referer = Some(HeaderValue::try_from(format!("https://a.test{target}")).unwrap());
    let exchange = Exchange::open(Arc::default(), request, None);
    let shown = "/x?a;api_key=***&b=1;c;token=***&e;f=1";
    assert!(text(&exchange).contains(&format!("GET {shown} HTTP")), "{}", text(&exchange));
    assert!(json(&exchange).contains(&format!("\"https://a.test{shown}\"")), "{}", json(&exchange));
}

#[test]
fn names_and_passwords_before_a_host_are_not_logged() {
    for (host, shown) in [
        ("bob:abc@a.test:80", "a.test:80"),
        ("http://bob:abc@a.test", "a.test"),
        ("a@b:abc@a.test", "a.test"),
        ("abc@", ""),
        ("a.test", "a.test"),
    ] {
        let mut request = exchange("/x").request().clone();
        request.host = Some(HeaderValue::from_static(host));
        let exchange = Exchange::open(Arc::default(), request, None);
        let read: serde_json::Value = serde_json::from_str(&json(&exchange)).unwrap();
        assert_eq!(read["host"], shown);
        assert!(!text(&exchange).contains("abc"), "{}", text(&exchange));
    }
    for (referer, shown) in [
        ("https://bob:abc@a.test/@x?y=@z", "https://a.test/@x?y=@z"),
        ("https://abc@a.test", "https://a.test"),
        ("https://a@b:abc@a.test?x#@y", "https://a.test?x#@y"),
        ("https://bob:abc@a.test?token=abc&x", "https://a.test?token=***&x"),
        ("https:////bob:abc@a.test/", "https:////a.test/"),
        ("//bob:abc@a.test/", "//a.test/"),
        ("https://a.test/@x", "https://a.test/@x"),
        ("https://a.test#@x", "https://a.test#@x"),
        ("https://a.test?x=//a@b", "https://a.test?x=//a@b"),
        ("a@b.test", "a@b.test"),
        ("//", "//"),
    ] {
        let mut request = exchange("/x").request().clone();
        request.referer = Some(HeaderValue::from_static(referer));
        let exchange = Exchange::open(Arc::default(), request, None);
        let read: serde_json::Value = serde_json::from_str(&json(&exchange)).unwrap();
        assert_eq!(read["referer"], shown);
    }
}

/// The text line, put together in the plainest way.
fn plain_text(exchange: &Facts, at: Moment) -> String {
    let (request, record) = (exchange.request(), exchange.read(Clone::clone));
    let client = record.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
    let status = record.status.map_or_else(|| "-".to_owned(), |status| status.as_str().to_owned());
    let ms = |took: Duration| format!("{:.3}", took.as_micros() as f64 / 1_000.0);
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut line = format!(
        "{} {client} \"{} {} {:?}\" {status} in={} out={} ms={}",
        at.now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"),
        plain_escaped(request.method.as_str()),
        plain_escaped(&plain_target(&request.uri)),
        request.version,
        record.request_bytes,
        record.response_bytes,
        ms(at.elapsed),
    );
    let pairs = [
        ("host", request.host.as_ref().map(text).map(plain_host)),
        ("route", record.route.map(|route| route.name.to_string())),
        ("identity", record.identity.map(|identity| identity.name.to_string())),
        ("origin", record.origin.map(|origin| origin.to_string())),
        ("attempts", (record.attempts > 1).then(|| record.attempts.to_string())),
        ("rejected", record.rejection.map(str::to_owned)),
        ("limit", record.limit.map(|limit| limit.to_string())),
        ("error", record.error),
        ("policy_ms", record.policy.map(ms)),
        ("connect_ms", record.connect.map(ms)),
        ("head_ms", record.response_head.map(ms)),
        ("aborted", (!record.complete).then(|| "true".to_owned())),
        ("id", record.request_id.as_ref().map(text)),
        ("agent", request.user_agent.as_ref().map(text)),
    ];
    for (key, value) in pairs {
        let Some(value) = value else { continue };
        let word = value.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\');
        line += &if word && !value.is_empty() {
            format!(" {key}={value}")
        } else {
            format!(" {key}=\"{}\"", plain_escaped(&value))
        };
    }
    line + "\n"
}

fn plain_escaped(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.to_string(),
        c if c.is_alphanumeric() => c.to_string(),
        c => c.escape_unicode().to_string(),
    };
    text.chars().map(escape).collect()
}

fn plain_host(host: String) -> String {
    host.rsplit_once('@').map(|(_, host)| host.to_owned()).unwrap_or(host)
}

fn plain_target(uri: &Uri) -> String {
    let secret = ["password", "token", "key"];
    let is_secret = |part: &&str| {
        let name = part.split_once('=').map(|(name, _)| name.to_lowercase());
        name.is_some_and(|name| secret.contains(&&*name))
    };
    let hidden = |pair: &str| {
        let parts: Vec<&str> = pair.split(';').collect();
        let Some(first) = parts.iter().position(is_secret) else {
            return pair.to_owned();
        };
        let name = parts[first].split_once('=').unwrap().0;
        [&parts[..first], &[&*format!("{name}=***")]].concat().join(";")
    };
    let query = |query: &str| query.split('&').map(hidden).collect::<Vec<_>>().join("&");
    uri.query().map_or_else(|| uri.path().to_owned(), |q| format!("{}?{}", uri.path(), query(q)))
}

/// A field's value of any bytes that one may have.
fn value() -> impl Strategy<Value = Option<HeaderValue>> {
    let bytes = prop_oneof![
        "[!-~]{0,20}".prop_map(String::into_bytes),
        "[ -~]{0,20}".prop_map(String::into_bytes),
        "\\PC{0,8}".prop_map(String::into_bytes),
        prop::collection::vec(0x20_u8.., 0..12),
    ];
    prop::option::of(bytes.prop_map(|bytes| HeaderValue::from_bytes(&bytes).ok()))
        .prop_map(Option::flatten)
}

fn word() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof![any::<String>(), "[ -~]{0,12}", "[!-~]{0,12}"])
}

fn took() -> impl Strategy<Value = Option<Duration>> {
    // Up to a month.
    prop::option::of((0_u64..2_600_000_000_000).prop_map(Duration::from_micros))
}

fn request_lines() -> impl Strategy<Value = RequestLine> {
    let targets = "/[!$-;=@-Z_a-z~]{0,12}(\\?((key|x|Token|PASSWORD|)(=[a-z/?]{0,3})?[&;]?){0,4})?";
    let method = prop_oneof!["GET", "[A-Z!#$%]{1,9}"];
    (method, targets, value(), value(), value()).prop_map(|(method, uri, host, agent, referer)| {
        RequestLine {
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            uri: uri.parse().unwrap(),
            version: Version::HTTP_11,
            host,
            user_agent: agent,
            referer,
            accept: None,
            content_type: None,
            fields: 0,
        }
    })
}

fn records() -> impl Strategy<Value = Record> {
    let addresses = (prop::option::of(any::<IpAddr>()), prop::option::of(100_u16..1_000));
    let words = (word(), word(), word(), word());
    let numbers = (any::<u64>(), 0_u64..100_000, 0_u32..4, any::<bool>());
    (addresses, words, numbers, (took(), took(), took()), value()).prop_map(
        |((client, status), words, (request_bytes, response_bytes, attempts, whole), took, id)| {
            Record {
                client,
                request_id: id,
                route: words.0.map(Route::named),
                identity: words.1.map(|name: String| Arc::new(Identity::new(name, "api_key"))),
                origin: words.2.map(Into::into),
                attempts,
                limit: words.3.clone().map(Into::into),
                error: words.3,
                status: status.map(|status| StatusCode::from_u16(status).unwrap()),
                request_bytes,
                response_bytes,
                policy: took.0,
                connect: took.1,
                response_head: took.2,
                complete: whole,
                ..Record::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn a_line_is_what_the_plainest_way_makes_of_it(
        request in request_lines(),
        record in records(),
        peer in prop::option::of(any::<SocketAddr>()),
        from_the_peer in any::<bool>(),
        milliseconds in 0_i64..4_000_000_000_000,
        lasted in took(),
    ) {
        let downstream = Downstream { peer, ..Downstream::default() };
        let exchange = Exchange::open(Arc::new(downstream), request, None);
        exchange.update(|into| {
            let client = if from_the_peer { into.client } else { record.client };
            *into = Record { client, ..record };
        });
        let at = Moment {
            now: Timestamp::from_millisecond(milliseconds).unwrap(),
            elapsed: lasted.unwrap_or_default(),
        };
        let mut lines = b"the line before\n".to_vec();
        text::text_at(&exchange, at, &mut lines);
        let expected = format!("the line before\n{}", plain_text(&exchange, at));
        prop_assert_eq!(String::from_utf8(lines).unwrap(), expected);

        let mut line = Vec::new();
        json::json_at(&exchange, at, &mut line);
        let line = String::from_utf8(line).unwrap();
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        let record = exchange.read(Clone::clone);
        prop_assert_eq!(read["time"].as_str().unwrap(),
            at.now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string());
        prop_assert_eq!(read["target"].as_str().unwrap(), plain_target(&exchange.request().uri));
        prop_assert_eq!(read["client"].as_str().map(str::to_owned), record.client.map(|c| c.to_string()));
        prop_assert_eq!(read["peer"].as_str().map(str::to_owned), peer.map(|p| p.to_string()));
        prop_assert_eq!(read["error"].as_str(), record.error.as_deref());
        prop_assert_eq!(read["duration_ms"].as_f64().unwrap(),
            at.elapsed.as_micros() as f64 / 1_000.0);
        prop_assert!(!line.trim_end_matches('\n').contains(char::is_control), "{:?}", line);
    }
}
