//! Requests over HTTP/2 that are begun to be thrown away, by the client itself
//! or by what it makes the proxy do: each is work for an origin, so they are
//! counted.

use crate::support::h2::*;
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{client, eventually, within};

/// Answers everything but `/hang`.
async fn origin() -> Origin {
    Origin::scripted(|mut connection| async move {
        while let Some(head) = connection.head().await {
            if head.contains("/hang") {
                while !connection.some().await.is_empty() {}
                return;
            }
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await
}

fn ok() -> Outcome {
    Outcome::Answer(200, "ok".to_owned())
}

/// How often the origin was asked for `/hang`.
fn hung(origin: &Origin) -> usize {
    String::from_utf8_lossy(&origin.bytes()).matches("/hang HTTP/1.1").count()
}

async fn serves_others(proxy: &Running) {
    assert_eq!(H2::connect(proxy.address).await.get(1, "/").await, ok());
    assert_eq!(client::get(proxy.address, "/", "").await.status, 200);
}

#[tokio::test]
async fn resets_in_one_breath_end_the_connection_before_the_origin_hears_of_them() {
    within(async {
        let origin = origin().await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut other = H2::connect(proxy.address).await;
        assert_eq!(other.get(1, "/").await, ok());
        let flood: Vec<u8> = (0..100_000)
            .flat_map(|number| [get(2 * number + 1, "/hang"), reset(2 * number + 1)].concat())
            .collect();
        let client = H2::connect(proxy.address).await;
        let (ended, during) = tokio::join!(client.flood(&flood), other.get(3, "/"));
        assert!(ended.code().is_none_or(|code| code == ENHANCE_YOUR_CALM), "{:?}", ended.goaway);
        assert_eq!(during, ok());
        assert!(hung(&origin) <= 20, "{} requests", hung(&origin));
        serves_others(&proxy).await;
    })
    .await;
}

#[tokio::test]
async fn resets_one_by_one_are_counted_as_well() {
    within(async {
        let origin = origin().await;
        let limit = "[listener.h2]\nmax_resets = 20\n";
        let proxy = Setup::forwarding_to(&origin).listener(limit).start();
        let mut client = H2::connect(proxy.address).await;
        let mut begun: usize = 0;
        // Each is under way before it is taken back.
        for stream in (1..2000).step_by(2) {
            if !client.try_send(get(stream, "/hang")).await || !client.settled().await {
                break;
            }
            begun += 1;
            eventually("it reaches the origin", async || hung(&origin) >= begun).await;
            client.try_send(reset(stream)).await;
        }
        // The limit, and ten for each second that it took.
        assert!((20..=120).contains(&begun), "{begun} requests");
        let ended = client.ended().await;
        assert!(
            ended.goaway.is_none_or(|(code, why)| {
                code == ENHANCE_YOUR_CALM && why == "too_many_resets"
            })
        );
        serves_others(&proxy).await;
    })
    .await;
}

#[tokio::test]
async fn who_lets_others_finish_may_take_requests_back() {
    within(async {
        let origin = origin().await;
        let limit = "[listener.h2]\nmax_resets = 20\n";
        let proxy = Setup::forwarding_to(&origin).listener(limit).start();
        let mut client = H2::connect(proxy.address).await;
        for stream in (1..400).step_by(4) {
            client.send(get(stream, "/hang")).await;
            assert_eq!(client.get(stream + 2, "/").await, ok());
            client.send(reset(stream)).await;
        }
        assert_eq!(client.get(401, "/").await, ok());
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_taken_back_is_given_up_at_the_origin() {
    within(async {
        let gone = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
        let told = gone.clone();
        let origin = Origin::scripted(move |mut connection| {
            let told = told.clone();
            async move {
                connection.head().await;
                while !connection.some().await.is_empty() {}
                told.add_permits(1);
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = H2::connect(proxy.address).await;
        client.send(get(1, "/hang")).await;
        eventually("it reaches the origin", async || hung(&origin) == 1).await;
        client.send(reset(1)).await;
        let _permit = gone.acquire().await.unwrap();
    })
    .await;
}

/// What makes the proxy reset a stream that it has begun to serve.
fn provocations() -> Vec<(&'static str, fn(u32) -> Vec<u8>)> {
    vec![
        ("a window past its end", |stream| {
            [get(stream, "/hang"), window_update(stream, u32::MAX >> 1)].concat()
        }),
        ("a window update of nothing", |stream| {
            [get(stream, "/hang"), window_update(stream, 0)].concat()
        }),
        ("data after the end", |stream| [get(stream, "/hang"), data(stream, b"x", true)].concat()),
        ("fields after the end", |stream| {
            [get(stream, "/hang"), headers(stream, &[("x", "y")], true)].concat()
        }),
        ("a priority that depends on itself", |stream| {
            let priority = [&stream.to_be_bytes()[..], b"\x10"].concat();
            [get(stream, "/hang"), frame(PRIORITY, 0, stream, &priority)].concat()
        }),
        ("more than was announced", |stream| {
            let mut fields = request("POST", "/hang");
            fields.push(("content-length", "1"));
            [headers(stream, &fields, false), data(stream, b"xy", false)].concat()
        }),
        ("trailers that do not end it", |stream| {
            [post(stream, "/hang"), headers(stream, &[("x", "y")], false)].concat()
        }),
        ("fields of the connection as trailers", |stream| {
            [post(stream, "/hang"), headers(stream, &[("connection", "x")], true)].concat()
        }),
        ("more than the window", |stream| {
            [post(stream, "/hang"), data(stream, &[0; 2000], false)].concat()
        }),
        ("a head that is none", |stream| headers(stream, &request("GET", "/hang")[..3], true)),
        ("an empty head", |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, b"")),
    ]
}

#[tokio::test]
async fn streams_that_the_proxy_is_made_to_reset_are_counted() {
    within(async {
        let origin = origin().await;
        let limits = "[listener.h2]\nmax_error_resets = 30\nstream_window = \"1KiB\"\n";
        let proxy = Setup::forwarding_to(&origin).listener(limits).start();
        for (name, provoke) in provocations() {
            let before = hung(&origin);
            let mut client = H2::connect(proxy.address).await;
            assert!(client.settled().await);
            let mut begun: usize = 0;
            for stream in (1..1000).step_by(2) {
                // One at a time: each is looked at, and perhaps forwarded.
                if !client.try_send(provoke(stream)).await || !client.settled().await {
                    break;
                }
                begun += 1;
            }
            assert!(begun <= 31, "{name}: {begun} streams");
            assert!(hung(&origin) - before <= 31, "{name}");
            client.ended().await;
            let mut client = H2::connect(proxy.address).await;
            assert!(client.settled().await);
            let all: Vec<u8> = (0..60).flat_map(|number| provoke(2 * number + 1)).collect();
            let ended = client.flood(&all).await;
            let code = ended.code().unwrap_or(ENHANCE_YOUR_CALM);
            let at_once = [PROTOCOL_ERROR, STREAM_CLOSED, ENHANCE_YOUR_CALM];
            assert!(at_once.contains(&code), "{name}: {code}");
            assert!(ended.count(RST_STREAM) <= 31, "{name}");
        }
        serves_others(&proxy).await;
    })
    .await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_then_the_connection_ends() {
    within(async {
        let origin = origin().await;
        let limits = "[listener.h2]\nmax_concurrent_streams = 8\nmax_error_resets = 30\n";
        let proxy = Setup::forwarding_to(&origin).listener(limits).start();
        let mut client = H2::connect(proxy.address).await;
        for number in 0..8 {
            client.send(get(2 * number + 1, "/hang")).await;
        }
        assert_eq!(client.get(17, "/").await, Outcome::Reset(REFUSED_STREAM));
        client.send(reset(1)).await;
        assert_eq!(client.get(19, "/").await, ok());
        client.send(get(21, "/hang")).await;
        eventually("they reach the origin", async || hung(&origin) == 9).await;
        let flood: Vec<u8> = (11..100).flat_map(|number| get(2 * number + 1, "/hang")).collect();
        let ended = client.flood(&flood).await;
        assert_eq!(ended.code(), Some(ENHANCE_YOUR_CALM));
        assert_eq!(ended.why(), "too_many_internal_resets");
        assert_eq!(hung(&origin), 9);
        serves_others(&proxy).await;
    })
    .await;
}
