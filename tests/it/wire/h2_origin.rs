//! Origins that break the rules of HTTP/2: the client gets 502, or a message that
//! is plainly cut short, and the next exchange is as good as any.

use crate::support::client::Raw;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PUSH_PROMISE, Peer, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, fields, frame, head,
};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

const OK: &[(&str, &str)] = &[(":status", "200")];

/// What a client got of a response.
#[derive(Debug, Eq, PartialEq)]
enum Got {
    Whole(u16, String),
    /// A head that announced more than came.
    Cut(u16),
}

async fn got(proxy: &Running) -> Got {
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    let all = String::from_utf8(client.read_to_end().await).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {all:?}"));
    let status = head[9..12].parse().unwrap();
    let head = head.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let whole = match length {
        Some(length) => body.len() == length.parse::<usize>().unwrap(),
        None if head.contains("transfer-encoding: chunked") => body.ends_with("0\r\n\r\n"),
        None => panic!("no framing: {all:?}"),
    };
    if whole { Got::Whole(status, body.to_owned()) } else { Got::Cut(status) }
}

/// The first request is answered with these bytes on its stream 1, every later
/// one properly. What the client got of the first.
async fn answered_with(bytes: Vec<u8>) -> Got {
    let origin = Origin::scripted(move |connection| {
        let bytes = bytes.clone();
        async move {
            let number = connection.number;
            let Some(mut peer) = Peer::accept(connection.stream).await else { return };
            while let Some(stream) = peer.request().await {
                if (number, stream) == (0, 1) {
                    peer.send(&bytes).await;
                } else {
                    peer.ok(stream).await;
                }
            }
        }
    })
    .await;
    let url = origin.to_string().replace("http://", "h2c://");
    let proxy = Setup::forwarding_to(url).start();
    let first = got(&proxy).await;
    for _ in 0..2 {
        let Got::Whole(200, body) = got(&proxy).await else { panic!("the next one suffers") };
        assert!(body.contains("ok"), "{body}");
    }
    first
}

async fn is_502(what: &str, bytes: Vec<u8>) {
    let got = answered_with(bytes).await;
    assert!(matches!(got, Got::Whole(502, _)), "{what}: {got:?}");
}

#[tokio::test]
async fn frames_that_may_not_be_are_502() {
    within(async {
        is_502("DATA on the connection", frame(DATA, 0, 0, "x")).await;
        is_502("DATA before HEADERS", frame(DATA, END_STREAM, 1, "x")).await;
        is_502("HEADERS on an idle stream", head(END_STREAM, 7, OK)).await;
        is_502("a frame larger than allowed", frame(DATA, 0, 1, vec![0; 16_385])).await;
        is_502("a window that overflows", {
            let most = (i32::MAX as u32).to_be_bytes();
            [frame(WINDOW_UPDATE, 0, 1, most), frame(WINDOW_UPDATE, 0, 0, most)].concat()
        })
        .await;
        is_502("SETTINGS of no length", frame(SETTINGS, 0, 0, [0; 5])).await;
        is_502("a table index that is none", frame(HEADERS, END_HEADERS, 1, [0xff, 0x7f])).await;
        is_502("CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, [0x88])).await;
        is_502("a push", {
            let promise = [&2_u32.to_be_bytes()[..], &fields(&[(":method", "GET")])].concat();
            frame(PUSH_PROMISE, END_HEADERS, 1, promise)
        })
        .await;
        is_502("HTTP/1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()).await;
    })
    .await;
}

#[tokio::test]
async fn heads_that_may_not_be_are_502() {
    within(async {
        let one = |list: &[(&str, &str)]| head(END_STREAM, 1, list);
        is_502("no status", one(&[("x", "y")])).await;
        is_502("two statuses", one(&[(":status", "200"), (":status", "200")])).await;
        is_502("a status that is none", one(&[(":status", "2x0")])).await;
        is_502("a field of the connection", one(&[(":status", "200"), ("connection", "x")])).await;
        let chunked = ("transfer-encoding", "chunked");
        is_502("a transfer coding", one(&[(":status", "200"), chunked])).await;
        is_502("an upper-case name", one(&[(":status", "200"), ("X-Up", "y")])).await;
        is_502("a value with a line feed", one(&[(":status", "200"), ("x", "a\nb")])).await;
        is_502("a value with a NUL", one(&[(":status", "200"), ("x", "a\0b")])).await;
    })
    .await;
}

#[tokio::test]
async fn interim_responses_are_passed_over_but_not_for_ever() {
    within(async {
        let hint = head(0, 1, &[(":status", "103"), ("link", "</x>")]);
        let fine = [head(0, 1, OK), frame(DATA, END_STREAM, 1, "fine")].concat();
        let Got::Whole(200, body) = answered_with([hint.clone(), fine.clone()].concat()).await
        else {
            panic!("a hint does harm")
        };
        assert!(body.contains("fine"), "{body}");
        is_502("a thousand", [hint.repeat(1000), fine.clone()].concat()).await;
        is_502("101", [head(0, 1, &[(":status", "101")]), fine].concat()).await;
        is_502("the last word", head(END_STREAM, 1, &[(":status", "103")])).await;
    })
    .await;
}

#[tokio::test]
async fn a_head_that_does_not_end_or_is_too_large_is_502() {
    within(async {
        // 600 fields of more than 200 bytes, over 120 KiB.
        let (name, value) = ("n".repeat(100), "v".repeat(100));
        let field = fields(&[(name.as_str(), value.as_str())]);
        let mut bytes = frame(HEADERS, END_STREAM, 1, fields(OK));
        for _ in 0..10 {
            bytes.extend(frame(CONTINUATION, 0, 1, field.repeat(60)));
        }
        let mut large = bytes.clone();
        large.extend(frame(CONTINUATION, END_HEADERS, 1, []));
        is_502("a head of 120 KiB", large).await;
        is_502("empty CONTINUATIONs", {
            let mut bytes = frame(HEADERS, END_STREAM, 1, fields(OK));
            bytes.extend(frame(CONTINUATION, 0, 1, []).repeat(100_000));
            bytes
        })
        .await;
        // 16 KiB that are referred to over and over.
        let long = "z".repeat(126);
        let mut block = fields(OK);
        block.extend([0x40, 1, b'x', 126]);
        block.extend(long.as_bytes());
        block.extend([0xbe].repeat(10_000));
        is_502("a table's entry ten thousand times", frame(HEADERS, 5, 1, block)).await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_does_not_come_to_its_end_is_never_a_whole_one() {
    within(async {
        let begun = || [head(0, 1, OK), frame(DATA, 0, 1, "beg")].concat();
        // NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL
        for reason in [0_u32, 2, 7, 8] {
            let bytes = [begun(), frame(RST_STREAM, 0, 1, reason.to_be_bytes())].concat();
            assert_eq!(answered_with(bytes).await, Got::Cut(200), "reset with {reason}");
        }
        let length = |length: &str| head(0, 1, &[(":status", "200"), ("content-length", length)]);
        let short = [length("5"), frame(DATA, END_STREAM, 1, "four")].concat();
        assert_eq!(answered_with(short).await, Got::Cut(200), "shorter than announced");
        let long = [length("5"), frame(DATA, END_STREAM, 1, "sixsix")].concat();
        assert_eq!(answered_with(long).await, Got::Cut(200), "longer than announced");
        let broken = [begun(), frame(DATA, 0, 0, "x")].concat();
        assert_eq!(answered_with(broken).await, Got::Cut(200), "a broken connection");
        let away = [0_u32.to_be_bytes(), 2_u32.to_be_bytes()].concat();
        let away = [begun(), frame(GOAWAY, 0, 0, away)].concat();
        assert_eq!(answered_with(away).await, Got::Cut(200), "GOAWAY of an error");
        is_502("two lengths", {
            let two = [(":status", "200"), ("content-length", "2"), ("content-length", "3")];
            [head(0, 1, &two), frame(DATA, END_STREAM, 1, "ok")].concat()
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_head_without_content_goes_nowhere() {
    within(async {
        let origin = Origin::scripted(|connection| async move {
            let Some(mut peer) = Peer::accept(connection.stream).await else { return };
            while let Some(stream) = peer.request().await {
                peer.send(head(0, stream, &[(":status", "204")])).await;
                peer.send(frame(DATA, END_STREAM, stream, "smuggled")).await;
            }
        })
        .await;
        let url = origin.to_string().replace("http://", "h2c://");
        let proxy = Setup::forwarding_to(url).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
        let all = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(all.starts_with("HTTP/1.1 204 ") && !all.contains("smuggled"), "{all}");
    })
    .await;
}

#[tokio::test]
async fn a_trailer_section_carries_no_fields_that_matter_before() {
    within(async {
        let bytes = [
            head(0, 1, &[(":status", "200"), ("trailer", "x-sum")]),
            frame(DATA, 0, 1, "body"),
            head(END_STREAM, 1, &[("x-sum", "1"), ("set-cookie", "a=b"), ("content-length", "9")]),
        ]
        .concat();
        let Got::Whole(200, body) = answered_with(bytes).await else { panic!("it is cut") };
        assert!(!body.contains("set-cookie") && !body.contains("content-length"), "{body}");
    })
    .await;
}
