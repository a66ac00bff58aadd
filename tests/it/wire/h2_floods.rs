//! Frames over HTTP/2 that cost a client next to nothing: each kind of flood
//! ends its connection after a known number of frames, and nobody else notices.

use std::time::Duration;

use crate::support::h2::{self as wire, *};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{client, within};

/// What a connection may send of each in these tests.
const LIMITS: &str = "request_head_timeout = \"1s\"\nmax_request_head = \"16KiB\"\nmax_fields = 1000\n\
                      [listener.h2]\nmax_control_frames = 100\nmax_error_resets = 50\n";

/// More than any limit here; few enough to be read at once.
const TOO_MANY: usize = 400;

async fn setup() -> (Origin, Running) {
    let origin = Origin::named("ok").await;
    let proxy = Setup::forwarding_to(&origin).listener(LIMITS).start();
    (origin, proxy)
}

/// A new client of either version gets its answer.
async fn serves_others(proxy: &Running) {
    let ok = Outcome::Answer(200, "ok".to_owned());
    assert_eq!(H2::connect(proxy.address).await.get(1, "/").await, ok);
    assert_eq!(client::get(proxy.address, "/", "").await.status, 200);
}

/// Floods a connection that has answered a request, beside one that goes on.
async fn flooded(proxy: &Running, flood: &[u8]) -> Ended {
    let ok = Outcome::Answer(200, "ok".to_owned());
    let mut other = H2::connect(proxy.address).await;
    assert_eq!(other.get(1, "/").await, ok);
    let mut client = H2::connect(proxy.address).await;
    assert_eq!(client.get(1, "/").await, ok);
    let (ended, during) = tokio::join!(client.flood(flood), other.get(3, "/"));
    assert_eq!(during, ok);
    assert_eq!(other.get(5, "/").await, ok);
    serves_others(proxy).await;
    ended
}

#[tokio::test]
async fn frames_that_carry_nothing_are_counted_and_end_the_connection() {
    within(async {
        let (origin, proxy) = setup().await;
        let unknown = frame(0xbe, 0, 0, b"whatever");
        let floods = [
            ("ping", ping(b"12345678")),
            ("ping ack", frame(PING, ACK, 0, b"12345678")),
            ("settings", settings(&[])),
            ("settings that move every window", settings(&[(INITIAL_WINDOW_SIZE, 65_536)])),
            ("priority of an idle stream", frame(PRIORITY, 0, 9, b"\0\0\0\x07\xff")),
            ("priority update", frame(0x10, 0, 0, b"\0\0\0\x09u=1")),
            ("window update", window_update(0, 1)),
            ("window update of a stream that is over", window_update(1, 1)),
            ("unknown", unknown),
        ];
        for (name, frame) in &floods {
            let ended = flooded(&proxy, &frame.repeat(TOO_MANY)).await;
            assert_eq!(ended.code(), Some(ENHANCE_YOUR_CALM), "{name}");
            assert_eq!(ended.why(), "too_many_control_frames", "{name}");
            // What was answered before it was too much.
            assert!(ended.count(PING) + ended.count(SETTINGS) <= 120, "{name}");
        }
        // Two of each connection that was flooded, three beside, two after.
        assert_eq!(origin.requests().len(), floods.len() * 6);
    })
    .await;
}

#[tokio::test]
async fn a_million_pings_end_early() {
    within(async {
        let (_origin, proxy) = setup().await;
        let ended = flooded(&proxy, &ping(b"12345678").repeat(1_000_000)).await;
        assert!(ended.count(PING) <= 120, "{}", ended.count(PING));
    })
    .await;
}

#[tokio::test]
async fn a_busy_client_may_send_many_such_frames() {
    within(async {
        let (_origin, proxy) = setup().await;
        let mut client = H2::connect(proxy.address).await;
        for stream in (1..400).step_by(2) {
            // Four frames a request, in all eight times the limit.
            let extra = [
                ping(b"12345678"),
                window_update(0, 1),
                frame(PRIORITY, 0, stream, b"\0\0\0\0\x10"),
            ];
            client.send(extra.concat()).await;
            assert_eq!(client.get(stream, "/").await, Outcome::Answer(200, "ok".to_owned()));
            client.send(window_update(0, 2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn pings_at_a_human_pace_go_on_for_ever() {
    within(async {
        let origin = Origin::named("ok").await;
        let limit = "[listener.h2]\nmax_control_frames = 5\n";
        let proxy = Setup::forwarding_to(&origin).listener(limit).start();
        let mut client = H2::connect(proxy.address).await;
        for _ in 0..15 {
            assert!(client.settled().await);
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        assert_eq!(client.get(1, "/").await, Outcome::Answer(200, "ok".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_no_answers_to_its_pings_is_cut() {
    within(async {
        let origin = Origin::named("ok").await;
        let limits = "send_timeout = \"300ms\"\n[listener.h2]\nmax_control_frames = 10000000\n";
        let proxy = Setup::forwarding_to(&origin).listener(limits).start();
        let mut client = H2::connect(proxy.address).await;
        assert_eq!(client.get(1, "/").await, Outcome::Answer(200, "ok".to_owned()));
        // The answers fill the sockets, and then nothing is read any more.
        let pings = ping(b"12345678").repeat(1000);
        let mut sent = 0_usize;
        while client.try_send(&pings).await {
            sent += 1;
        }
        assert!(sent < 10_000, "{sent} thousand pings were taken");
        serves_others(&proxy).await;
    })
    .await;
}

#[tokio::test]
async fn empty_and_tiny_data_frames_are_counted_by_h2() {
    within(async {
        // An origin that takes no bodies.
        let origin = Origin::scripted(|connection| async move {
            let _held = connection;
            std::future::pending::<()>().await;
        })
        .await;
        let proxy = Setup::forwarding_to(&origin)
            .listener("[listener.h2]\nconnection_window = \"64KiB\"")
            .start();
        let floods = [
            ("empty", data(1, b"", false).repeat(TOO_MANY)),
            ("only padding", frame(DATA, 0x8, 1, [8, 0, 0, 0, 0, 0, 0, 0, 0]).repeat(TOO_MANY)),
        ];
        for (name, flood) in &floods {
            let mut client = H2::connect(proxy.address).await;
            client.send(post(1, "/")).await;
            let ended = client.flood(flood).await;
            assert_eq!(ended.code(), Some(ENHANCE_YOUR_CALM), "{name}");
            assert_eq!(ended.why(), "too_many_data_frames", "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn fragments_of_a_head_without_an_end_are_few() {
    within(async {
        let (origin, proxy) = setup().await;
        let start = |payload: &[u8]| frame(HEADERS, END_STREAM, 3, payload);
        let more = |payload: &[u8]| frame(CONTINUATION, 0, 3, payload);
        let head = block(&request("GET", "/flood"));
        let filler = field("x", "y".repeat(1000));
        let floods = [
            ("empty", [start(&head), more(b"").repeat(TOO_MANY)].concat()),
            ("small", [start(&head), more(&field("a", "b")).repeat(TOO_MANY)].concat()),
            ("large", [start(&head), more(&filler).repeat(TOO_MANY)].concat()),
            ("nothing first", [start(b""), more(b"").repeat(TOO_MANY)].concat()),
            // A string that never ends.
            (
                "one string",
                [start(b"\0\x01x\x7f\xff\xff\x03"), more(&[b'y'; 1000]).repeat(200)].concat(),
            ),
        ];
        for (name, flood) in &floods {
            let ended = flooded(&proxy, flood).await;
            if let Some(code) = ended.code() {
                assert_eq!(code, ENHANCE_YOUR_CALM, "{name}");
                assert_eq!(ended.why(), "too_many_continuations", "{name}");
            }
            assert_eq!(ended.count(HEADERS), 0, "{name}");
        }
        assert!(origin.requests().iter().all(|request| !request.contains("flood")));
    })
    .await;
}

#[tokio::test]
async fn a_head_that_is_never_finished_is_cut() {
    within(async {
        let (origin, proxy) = setup().await;
        let mut client = H2::connect(proxy.address).await;
        client.send(frame(HEADERS, END_STREAM, 1, block(&request("GET", "/")))).await;
        client.ended().await;
        assert!(origin.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_head_over_the_limit_is_431_and_one_far_over_it_ends_the_connection() {
    within(async {
        let (origin, proxy) = setup().await;
        let long = |bytes: usize| {
            let value = "y".repeat(bytes);
            let mut fields = request("GET", "/long");
            fields.push(("x-long", &value));
            block(&fields)
        };
        // In as many frames as it takes.
        let cut = |stream: u32, block: &[u8]| {
            let mut parts = block.chunks(16_000).peekable();
            let mut kind = HEADERS;
            let mut frames = Vec::new();
            while let Some(part) = parts.next() {
                let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
                let end = if kind == HEADERS { END_STREAM } else { 0 };
                frames.extend(frame(kind, flags | end, stream, part));
                kind = CONTINUATION;
            }
            frames
        };
        let mut client = H2::connect(proxy.address).await;
        client.send(cut(1, &long(20_000))).await;
        assert_eq!(client.outcome(1).await, Outcome::Answer(431, String::new()));
        assert_eq!(client.get(3, "/").await, Outcome::Answer(200, "ok".to_owned()));
        client.send(cut(5, &long(70_000))).await;
        let ended = client.ended().await;
        assert_eq!(ended.code(), Some(ENHANCE_YOUR_CALM));
        assert_eq!(ended.why(), "header_list_way_too_large");
        assert_eq!(origin.requests().len(), 1);
        serves_others(&proxy).await;
    })
    .await;
}

#[tokio::test]
async fn a_head_that_unpacks_to_more_than_the_limit_is_counted_unpacked() {
    within(async {
        let (origin, proxy) = setup().await;
        // An entry of almost 4 KiB in the table, and a byte for each time it is used.
        let entry = [&[0x40][..], &field("x", "y".repeat(4000))[1..]].concat();
        let bomb = |uses: usize| {
            [block(&request("GET", "/bomb")), entry.clone(), vec![0xbe; uses]].concat()
        };
        let mut client = H2::connect(proxy.address).await;
        let sent = bomb(8);
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &sent)).await;
        assert_eq!(client.outcome(1).await, Outcome::Answer(431, String::new()));
        let sent = bomb(10_000);
        assert!(sent.len() < 16_000);
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &sent)).await;
        let ended = client.ended().await;
        assert_eq!(ended.why(), "header_list_way_too_large");
        assert!(origin.requests().is_empty());
        // Many small fields: each counts for 32 bytes more than it has.
        let mut client = H2::connect(proxy.address).await;
        let many = [block(&request("GET", "/bomb")), field("a", "").repeat(520)].concat();
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &many)).await;
        assert_eq!(client.outcome(1).await, Outcome::Answer(431, String::new()));
        assert!(origin.requests().is_empty());
        serves_others(&proxy).await;
    })
    .await;
}

#[tokio::test]
async fn frames_that_no_client_may_send_end_the_connection() {
    within(async {
        let (origin, proxy) = setup().await;
        let cases = [
            ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02"), PROTOCOL_ERROR),
            ("too long", frame(DATA, 0, 1, [0; 16_385]), FRAME_SIZE_ERROR),
            ("a short ping", frame(PING, 0, 0, b"1234"), FRAME_SIZE_ERROR),
            ("a ping of a stream", frame(PING, 0, 1, b"12345678"), PROTOCOL_ERROR),
            ("data of no stream", data(0, b"x", true), PROTOCOL_ERROR),
            ("data of an idle stream", data(7, b"x", true), PROTOCOL_ERROR),
            ("an even stream", wire::get(2, "/"), PROTOCOL_ERROR),
            (
                "an old stream",
                [wire::get(9, "/old"), wire::get(5, "/old")].concat(),
                PROTOCOL_ERROR,
            ),
            ("half an update", frame(WINDOW_UPDATE, 0, 0, b"\0\0"), FRAME_SIZE_ERROR),
            ("an update of nothing", window_update(0, 0), PROTOCOL_ERROR),
            ("too much window", window_update(0, u32::MAX >> 1), FLOW_CONTROL_ERROR),
            ("a continuation of nothing", frame(CONTINUATION, 0, 1, b""), PROTOCOL_ERROR),
            ("huge windows", settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]), FLOW_CONTROL_ERROR),
            ("a block of nonsense", frame(HEADERS, END_HEADERS, 3, [0xff; 20]), COMPRESSION_ERROR),
        ];
        for (name, bytes, code) in cases {
            let mut client = H2::connect(proxy.address).await;
            assert!(client.settled().await);
            let ended = client.flood(&bytes).await;
            let seen = ended.code().unwrap_or_else(|| panic!("{name}: no GOAWAY"));
            // h2 has one code for what it cannot parse.
            assert!(seen == code || seen == PROTOCOL_ERROR, "{name}: {seen}");
        }
        assert!(origin.requests().iter().all(|request| request.contains("/old")));
        serves_others(&proxy).await;
    })
    .await;
}
