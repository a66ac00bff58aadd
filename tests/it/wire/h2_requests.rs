//! Requests over HTTP/2 that would become something else as HTTP/1.1: what the
//! client is told, and every byte that reaches the origin.

use crate::support::h2::*;
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

const RESET: Outcome = Outcome::Reset(PROTOCOL_ERROR);
const GONE: Outcome = Outcome::Gone(Some(PROTOCOL_ERROR));

fn answered(status: u16) -> Outcome {
    Outcome::Answer(status, String::new())
}

async fn setup() -> (Origin, Running) {
    let origin = Origin::named("ok").await;
    let proxy = Setup::forwarding_to(&origin).start();
    (origin, proxy)
}

fn owned(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect()
}

/// A good request, with these fields after its own.
fn with(more: &[(&[u8], &[u8])]) -> Fields {
    let mut fields = owned(&request("GET", "/"));
    fields.extend(more.iter().map(|(name, value)| (name.to_vec(), value.to_vec())));
    fields
}

/// A good request, one of whose pseudo-header fields has another value.
fn but(name: &str, value: &[u8]) -> Fields {
    let mut fields = owned(&request("GET", "/"));
    for field in &mut fields {
        if field.0 == name.as_bytes() {
            field.1 = value.to_vec();
        }
    }
    fields
}

/// A good request without one of its fields.
fn without(name: &str) -> Fields {
    let mut fields = owned(&request("GET", "/"));
    fields.retain(|field| field.0 != name.as_bytes());
    fields
}

/// What becomes of a request; of an answer only the status.
async fn outcome(proxy: &Running, frames: &[u8]) -> Outcome {
    let mut client = H2::connect(proxy.address).await;
    client.send(frames).await;
    match client.outcome(1).await {
        Outcome::Answer(status, _) => answered(status),
        other => other,
    }
}

/// Each is refused as it says, and nothing of it reaches the origin.
async fn refused(cases: Vec<(String, Fields, Outcome)>) {
    within(async {
        let (origin, proxy) = setup().await;
        let mut wrong = Vec::new();
        for (name, fields, expected) in cases {
            let seen = outcome(&proxy, &headers(1, &fields, true)).await;
            if seen != expected {
                wrong.push(format!("{name}: {seen:?}, not {expected:?}"));
            }
            let bytes = origin.bytes();
            if !bytes.is_empty() {
                wrong.push(format!("{name}: {:?}", String::from_utf8_lossy(&bytes)));
                break;
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // The proxy is there, and so is the origin.
        assert_eq!(outcome(&proxy, &get(1, "/")).await, answered(200));
        assert_eq!(origin.request().as_bytes(), origin.bytes());
    })
    .await;
}

#[tokio::test]
async fn names_that_are_no_names_are_refused() {
    let names: [&[u8]; 16] = [
        b"x\r\nevil: 1\r\ny",
        b"x\r\n\r\nGET /evil HTTP/1.1",
        b"x\ny",
        b"x\ry",
        b"x\0",
        b"x y",
        b" x",
        b"x ",
        b"x\ty",
        b"x:y",
        b"x:",
        b"X-Upper",
        b"x(y)",
        b"x\x7f",
        b"x\xe9",
        b"",
    ];
    let case =
        |name: &[u8]| (format!("{:?}", String::from_utf8_lossy(name)), with(&[(name, b"v")]), GONE);
    let mut cases: Vec<_> = names.into_iter().map(case).collect();
    let long = [&[b'x'; 100][..], b"Y"].concat();
    cases.push(("long".to_owned(), with(&[(&long, b"v")]), GONE));
    let long = [&[b'x'; 100][..], b"\r\n"].concat();
    cases.push(("long with a line".to_owned(), with(&[(&long, b"v")]), GONE));
    cases.push(("quoted".to_owned(), with(&[(b"x\"y", b"v")]), answered(400)));
    refused(cases).await;
}

#[tokio::test]
async fn values_with_control_characters_are_refused() {
    let values: [&[u8]; 9] = [
        b"a\r\nevil: 1",
        b"a\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
        b"a\nb",
        b"a\rb",
        b"a\0b",
        b"\r\n",
        b"a\x0bb",
        b"a\x1bb",
        b"a\x7f",
    ];
    let case = |value: &[u8]| {
        (format!("{:?}", String::from_utf8_lossy(value)), with(&[(b"x", value)]), GONE)
    };
    refused(values.into_iter().map(case).collect()).await;
}

#[tokio::test]
async fn values_with_space_around_them_are_refused() {
    let values: [&[u8]; 6] = [b" a", b"a ", b"\ta", b"a\t", b" ", b"\t"];
    let mut cases: Vec<_> = values
        .into_iter()
        .map(|value| {
            (format!("{:?}", String::from_utf8_lossy(value)), with(&[(b"x", value)]), answered(400))
        })
        .collect();
    cases.push(("host".to_owned(), with(&[(b"host", b" a.test")]), answered(400)));
    refused(cases).await;
}

#[tokio::test]
async fn paths_that_are_no_paths_are_refused() {
    let paths: [(&[u8], Outcome); 18] = [
        (b"", RESET),
        (b"a", RESET),
        (b"a.test/x", RESET),
        (b"http://b.test/", RESET),
        (b"/a b", RESET),
        (b"/a HTTP/1.1\r\nevil: 1", RESET),
        (b"/a\r\n\r\nGET /evil", RESET),
        (b"/a\tb", RESET),
        (b"/a\nb", RESET),
        (b"/a\0", RESET),
        (b"/a\x7f", RESET),
        (b"/\xff", GONE),
        (b" /", RESET),
        (b"/ ", RESET),
        (b"?a", answered(400)),
        (b"*", answered(400)),
        (b"/a/../b", answered(400)),
        (b"/a\\b", answered(400)),
    ];
    let case = |(path, expected): (&[u8], Outcome)| {
        (format!(":path {:?}", String::from_utf8_lossy(path)), but(":path", path), expected)
    };
    refused(paths.into_iter().map(case).collect()).await;
}

#[tokio::test]
async fn a_fragment_never_reaches_the_origin() {
    within(async {
        let (origin, proxy) = setup().await;
        // h2 has cut it off before anybody may judge it.
        assert_eq!(
            outcome(&proxy, &headers(1, &but(":path", b"/a#b?c"), true)).await,
            answered(200)
        );
        assert!(origin.request().starts_with("GET /a HTTP/1.1\r\n"), "{}", origin.request());
    })
    .await;
}

#[tokio::test]
async fn methods_that_are_no_methods_are_refused() {
    let methods: [(&[u8], Outcome); 10] = [
        (b"", GONE),
        (b"GET /evil HTTP/1.1\r\n", GONE),
        (b"GET ", GONE),
        (b" GET", GONE),
        (b"G ET", GONE),
        (b"GET\r\n", GONE),
        (b"GET\0", GONE),
        (b"GET:", GONE),
        (b"G\xc9T", GONE),
        (b"TRACE", answered(405)),
    ];
    let case = |(method, expected): (&[u8], Outcome)| {
        (format!(":method {:?}", String::from_utf8_lossy(method)), but(":method", method), expected)
    };
    refused(methods.into_iter().map(case).collect()).await;
}

#[tokio::test]
async fn authorities_that_are_none_are_refused() {
    let authorities: [(&[u8], Outcome); 12] = [
        (b"", RESET),
        (b"a.test\r\nevil: 1", RESET),
        (b"a.test evil", RESET),
        (b"a.test/evil", RESET),
        (b"a.test?evil", RESET),
        (b"a.test#evil", RESET),
        (b"a.test,b.test", answered(400)),
        (b"user@a.test", answered(400)),
        (b"a.test:99999", answered(400)),
        (b"a.test:x", answered(400)),
        (b"a\0test", RESET),
        (b":80", answered(400)),
    ];
    let mut cases: Vec<_> = authorities
        .into_iter()
        .map(|(authority, expected)| {
            let name = format!(":authority {:?}", String::from_utf8_lossy(authority));
            (name, but(":authority", authority), expected)
        })
        .collect();
    let two = with(&[(b"host", b"a.test"), (b"host", b"a.test")]);
    cases.push(("another host".to_owned(), with(&[(b"host", b"b.test")]), answered(400)));
    cases.push(("two hosts".to_owned(), two, answered(400)));
    cases.push(("no host at all".to_owned(), without(":authority"), answered(400)));
    let mut empty = without(":authority");
    empty.push((b"host".to_vec(), Vec::new()));
    cases.push(("an empty host".to_owned(), empty, answered(400)));
    refused(cases).await;
}

#[tokio::test]
async fn pseudo_header_fields_that_lack_repeat_or_come_late_are_refused() {
    let mut late = vec![(b"x".to_vec(), b"y".to_vec())];
    late.extend(owned(&request("GET", "/")));
    let mut neither = owned(&request("GET", "/")[..2]);
    neither.push((b"host".to_vec(), b"a.test".to_vec()));
    let cases = [
        ("no method", without(":method"), RESET),
        ("no scheme", without(":scheme"), RESET),
        ("no path", without(":path"), RESET),
        ("neither path nor authority", neither, answered(400)),
        ("two methods", with(&[(b":method", b"POST")]), RESET),
        ("two paths", with(&[(b":path", b"/evil")]), RESET),
        ("two authorities", with(&[(b":authority", b"b.test")]), RESET),
        ("two schemes", with(&[(b":scheme", b"http")]), RESET),
        ("late", late, RESET),
        ("one late", with(&[(b"x", b"y"), (b":path", b"/evil")]), RESET),
        ("unknown", with(&[(b":evil", b"1")]), GONE),
        ("in capitals", with(&[(b":Path", b"/evil")]), GONE),
        ("a status", with(&[(b":status", b"200")]), RESET),
        ("a protocol that nobody asked for", with(&[(b":protocol", b"websocket")]), RESET),
        ("a scheme with a space", but(":scheme", b"ht tp"), RESET),
        ("a scheme with a line", but(":scheme", b"http\r\nevil: 1"), RESET),
        ("no scheme in it", but(":scheme", b""), answered(400)),
        ("another scheme", but(":scheme", b"ftp"), answered(400)),
    ];
    let case = |(name, fields, expected): (&str, _, _)| (name.to_owned(), fields, expected);
    refused(cases.into_iter().map(case).collect()).await;
}

#[tokio::test]
async fn fields_of_the_connection_are_refused() {
    let fields: [(&[u8], &[u8]); 9] = [
        (b"connection", b"close"),
        (b"connection", b"x-forwarded-for"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
    ];
    let case = |(name, value): (&[u8], &[u8])| {
        (
            String::from_utf8_lossy(&[name, b": ", value].concat()).into_owned(),
            with(&[(name, value)]),
            RESET,
        )
    };
    refused(fields.into_iter().map(case).collect()).await;
}

#[tokio::test]
async fn content_lengths_that_are_none_are_refused() {
    let lengths: [(&[u8], Outcome); 11] = [
        (b"1", RESET),
        (b"+0", RESET),
        (b"-0", RESET),
        (b"0x0", RESET),
        (b"0,0", RESET),
        (b"0, 0", RESET),
        (b"0 0", RESET),
        (b" 0", RESET),
        (b"0_0", RESET),
        (b"18446744073709551616", RESET),
        (b"", answered(400)),
    ];
    let mut cases: Vec<_> = lengths
        .into_iter()
        .map(|(length, expected)| {
            let name = format!("content-length {:?}", String::from_utf8_lossy(length));
            (name, with(&[(b"content-length", length)]), expected)
        })
        .collect();
    let two = |a: &[u8], b: &[u8]| with(&[(b"content-length", a), (b"content-length", b)]);
    cases.push(("two lengths".to_owned(), two(b"0", b"1"), RESET));
    cases.push(("one length twice".to_owned(), two(b"0", b"0"), answered(400)));
    refused(cases).await;
}

/// A request with a body, for `/evil`.
fn upload(more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = request("POST", "/evil");
    fields.extend(more);
    headers(1, &fields, false)
}

#[tokio::test]
async fn an_upload_that_is_reset_never_looks_complete_whatever_the_code() {
    within(async {
        let (origin, proxy) = setup().await;
        for code in [NO_ERROR, CANCEL, PROTOCOL_ERROR] {
            let mut client = H2::connect(proxy.address).await;
            client.send(upload(&[])).await;
            client.send(data(1, b"abc", false)).await;
            assert!(client.settled().await);
            client.send(frame(RST_STREAM, 0, 1, code.to_be_bytes())).await;
            assert_eq!(client.get(3, "/after").await, Outcome::Answer(200, "ok".to_owned()));
        }
        proxy.log_lines(6).await;
        let whole = origin.requests();
        assert_eq!(
            whole.iter().filter(|request| request.contains("/evil")).count(),
            0,
            "{whole:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_never_looks_complete() {
    let evil = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let long = upload(&[("content-length", "5")]);
    let none = upload(&[("content-length", "0")]);
    let cases: [(&str, Vec<Vec<u8>>); 6] = [
        ("too short", vec![long.clone(), data(1, b"abc", true)]),
        ("too short, in parts", vec![long.clone(), data(1, b"abc", false), data(1, b"", true)]),
        ("empty", vec![long.clone(), data(1, b"", true)]),
        ("too long", vec![long.clone(), data(1, evil, true)]),
        ("more than nothing", vec![none, data(1, evil, true)]),
        ("cut by trailers", vec![long, data(1, b"abc", false), headers(1, &[("x", "y")], true)]),
    ];
    within(async {
        for (name, frames) in cases {
            let (origin, proxy) = setup().await;
            // At once, and each frame when the one before has been looked at.
            for slowly in [false, true] {
                let mut client = H2::connect(proxy.address).await;
                let mut settled = true;
                for frame in &frames {
                    client.send(frame).await;
                    settled = !slowly || client.settled().await;
                }
                if !slowly {
                    assert_eq!(client.outcome(1).await, RESET, "{name}");
                }
                assert!(settled, "{name}");
            }
            let mut client = H2::connect(proxy.address).await;
            assert_eq!(client.get(1, "/after").await, Outcome::Answer(200, "ok".to_owned()));
            let whole = origin.requests();
            assert!(whole.iter().any(|request| request.starts_with("GET /after ")), "{name}");
            // A length of nothing was kept to before anything else came.
            let complete: Vec<_> = whole.iter().filter(|r| r.contains("/evil")).collect();
            if name == "more than nothing" {
                assert!(complete.iter().all(|r| r.ends_with("\r\n\r\n")), "{complete:?}");
            } else {
                assert!(complete.is_empty(), "{name}: {complete:?}");
            }
            let bytes = String::from_utf8(origin.bytes()).unwrap();
            assert!(!bytes.contains("smuggled"), "{name}: {bytes:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_body_of_the_length_announced_is_not_passed_on() {
    within(async {
        let (origin, proxy) = setup().await;
        let mut client = H2::connect(proxy.address).await;
        client.send(upload(&[("content-length", "3")])).await;
        client.send(data(1, b"abc", false)).await;
        client.settled().await;
        client.try_send(data(1, b"GET /smuggled HTTP/1.1\r\n\r\n", true)).await;
        let mut after = H2::connect(proxy.address).await;
        assert_eq!(after.get(1, "/after").await, Outcome::Answer(200, "ok".to_owned()));
        let bytes = String::from_utf8(origin.bytes()).unwrap();
        assert!(!bytes.contains("smuggled"), "{bytes:?}");
    })
    .await;
}

#[tokio::test]
async fn a_good_request_becomes_exactly_one_with_one_framing() {
    within(async {
        let (origin, proxy) = setup().await;
        let mut client = H2::connect(proxy.address).await;
        let mut fields = request("POST", "/a?b=c");
        fields.extend([
            ("te", "trailers"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x", ""),
            ("x", "two, words"),
            ("host", "a.test"),
            ("content-length", "5"),
        ]);
        client.send([headers(1, &fields, false), data(1, b"hello", true)].concat()).await;
        assert_eq!(client.outcome(1).await, Outcome::Answer(200, "ok".to_owned()));
        let seen = origin.request();
        assert_eq!(seen.as_bytes(), origin.bytes(), "and nothing else");
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "hello");
        let lines: Vec<String> = head.split("\r\n").map(str::to_ascii_lowercase).collect();
        assert_eq!(lines[0], "post /a?b=c http/1.1");
        let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!(count("host: a.test"), 1, "{lines:?}");
        assert_eq!(count("content-length: 5"), 1, "{lines:?}");
        assert_eq!(count("transfer-encoding:"), 0, "{lines:?}");
        assert_eq!(count("cookie: a=1; b=2"), 1, "{lines:?}");
        assert_eq!(count("cookie:"), 1, "{lines:?}");
        assert_eq!(count("x: two, words"), 1, "{lines:?}");
        assert_eq!(count(":"), 0, "{lines:?}");
        assert!(
            lines[1..].iter().all(|line| line.contains(": ") || line.ends_with(':')),
            "{lines:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_body_without_a_length_is_chunked_and_its_trailers_are_only_fields() {
    within(async {
        let (origin, proxy) = setup().await;
        let evil = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
        let mut client = H2::connect(proxy.address).await;
        client.send([post(1, "/"), data(1, evil, true)].concat()).await;
        assert_eq!(client.outcome(1).await, Outcome::Answer(200, "ok".to_owned()));
        let seen = origin.request();
        assert_eq!(seen.as_bytes(), origin.bytes(), "one request, with all in its chunks");
        for (trailers, expected) in [
            (owned(&[("x", "y"), (":path", "/evil")]), RESET),
            (owned(&[("transfer-encoding", "chunked")]), RESET),
            (owned(&[("x\r\nevil", "1")]), GONE),
            (owned(&[("x", "a\r\n\r\nGET /smuggled HTTP/1.1")]), GONE),
        ] {
            let frames = [post(1, "/"), data(1, b"x", false), headers(1, &trailers, true)].concat();
            assert_eq!(outcome(&proxy, &frames).await, expected, "{trailers:?}");
        }
        // h2 leaves pseudo-header fields out of trailers, unless others come first.
        let trailers = owned(&[
            (":path", "/evil"),
            ("host", "b.test"),
            ("content-length", "7"),
            ("x-checksum", "1"),
        ]);
        let frames = [post(1, "/"), data(1, b"x", false), headers(1, &trailers, true)].concat();
        assert_eq!(outcome(&proxy, &frames).await, answered(200));
        let last = origin.requests().pop().unwrap().to_ascii_lowercase();
        let (head, body) = last.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("content-length") && !last.contains("evil"), "{last}");
        assert!(!body.contains("host:") && !body.contains("content-length:"), "{last}");
        assert!(!String::from_utf8(origin.bytes()).unwrap().contains("\r\nevil"));
    })
    .await;
}
