//! What is forwarded, and in what form (RFC 9110 §7).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::client::{Raw, ask, fields, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn hop_by_hop_fields_stop_here_both_ways() {
    within(async {
        let origin = Origin::answering(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-private\r\n\
             Connection: X-Other, keep-alive\r\nX-Private: 1\r\nX-Other: 2\r\n\
             Keep-Alive: timeout=5\r\nX-Kept: 3\r\n\r\nok",
        )
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let answer = get(
            proxy.address,
            "/",
            "Connection: x-one, keep-alive\r\nConnection: X-Two\r\nX-One: 1\r\nX-Two: 2\r\n\
             Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nKeep-Alive: 5\r\n\
             TE: gzip\r\nX-Kept: 3\r\n",
        )
        .await;
        assert_eq!(answer.status, 200);
        for gone in ["x-private", "x-other", "keep-alive", "connection"] {
            assert_eq!(answer.field(gone), None, "{}", answer.head);
        }
        assert_eq!(answer.field("x-kept"), Some("3"));
        let request = origin.request();
        for gone in [
            "x-one",
            "x-two",
            "proxy-connection",
            "proxy-authorization",
            "keep-alive",
            "te",
            "connection",
        ] {
            assert!(fields(&request, gone).is_empty(), "{gone} in {request}");
        }
        assert_eq!(fields(&request, "x-kept"), ["3"]);
    })
    .await;
}

#[tokio::test]
async fn the_request_says_which_way_it_came() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        get(proxy.address, "/a?b=c", "Via: 1.0 earlier\r\n").await;
        let request = origin.request();
        assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
        let via = fields(&request, "via");
        assert_eq!(via[0], "1.0 earlier");
        assert!(via[1].starts_with("1.1 tollgate"), "{via:?}");
        assert_eq!(fields(&request, "host"), ["a.test"]);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_comes_back_is_a_loop() {
    within(async {
        // The proxy is its own origin.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let setup = Setup::new(format!(
            "[[listener]]\nname = \"self\"\naddress = \"127.0.0.1:{port}\"\n\
             [[route]]\nname = \"all\"\nupstream = \"self\"\n\
             [[upstream]]\nname = \"self\"\norigins = [\"http://127.0.0.1:{port}\"]\n"
        ));
        let proxy = setup.start();
        assert_eq!(get(proxy.address, "/", "").await.status, 508);
    })
    .await;
}

#[tokio::test]
async fn host_is_kept_replaced_or_the_origins() {
    within(async {
        let origin = Origin::answering(OK).await;
        let authority = origin.address.to_string();
        for (host, expected) in
            [("keep", "a.test"), ("origin", authority.as_str()), ("b.test", "b.test")]
        {
            let proxy = Setup::new(format!(
                "[[route]]\nname = \"all\"\nupstream = \"origin\"\nhost = \"{host}\"\n\
                 [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n"
            ))
            .start();
            get(proxy.address, "/", "").await;
            let request = origin.requests().pop().unwrap();
            assert_eq!(fields(&request, "host"), [expected]);
        }
    })
    .await;
}

#[tokio::test]
async fn an_absolute_target_overrules_host_and_is_forwarded_in_origin_form() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let request = "GET http://b.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n";
        assert_eq!(ask(proxy.address, request).await.status, 200);
        let received = origin.request();
        assert!(received.starts_with("GET /x HTTP/1.1\r\n"), "{received}");
        assert_eq!(fields(&received, "host"), ["b.test"]);
    })
    .await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    within(async {
        let origin = Origin::answering(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
             2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let answer = ask(
            proxy.address,
            "POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n\
             Transfer-Encoding: chunked\r\nTrailer: x-up\r\n\r\n3\r\nabc\r\n0\r\nX-Up: 1\r\n\r\n",
        )
        .await;
        assert_eq!(answer.text(), "ok");
        assert_eq!(answer.trailers.to_ascii_lowercase(), "x-sum: 7\r\n");
        let request = origin.request();
        assert_eq!(fields(&request, "te"), ["trailers"]);
        assert!(request.to_ascii_lowercase().ends_with("x-up: 1\r\n\r\n"), "{request}");
    })
    .await;
}

#[tokio::test]
async fn responses_without_a_body_have_none_and_the_connection_goes_on() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            while let Some(request) = connection.request().await {
                let answer = match request.split(' ').nth(1).unwrap() {
                    "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                    "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                };
                connection.write(answer).await;
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        for (method, path, status) in
            [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304)]
        {
            client.send(format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
            let answer = client.answer_to(method).await;
            assert_eq!(answer.status, status);
            if method == "HEAD" {
                assert_eq!(answer.field("content-length"), Some("5"));
            }
        }
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_expectation_of_100_continue_does_not_deadlock() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\
                 Expect: 100-continue\r\n\r\n",
            )
            .await;
        assert_eq!(client.answer().await.status, 100);
        client.send("abc").await;
        assert_eq!(client.answer().await.status, 200);
        assert!(origin.request().ends_with("abc"));
    })
    .await;
}

#[tokio::test]
async fn bodies_stream_both_ways_before_they_are_whole() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            // Answers each part as it comes: a proxy that gathers would hang.
            let Some(_) = connection.head().await else { return };
            connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            loop {
                let part = connection.some().await;
                if part.is_empty() {
                    return;
                }
                connection.write("4\r\npart\r\n").await;
                if part == b"c" {
                    break;
                }
            }
            connection.write("0\r\n\r\n").await;
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\n").await;
        client.send("a").await;
        client.read_until("\r\n\r\n").await;
        client.read_until("part").await;
        client.send("b").await;
        client.read_until("part").await;
        client.send("c").await;
        client.read_until("part").await;
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_origin_down() {
    within(async {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let origin = Origin::scripted(move |mut connection| {
            let sent = counter.clone();
            async move {
                let Some(_) = connection.request().await else { return };
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n";
                connection.write(head).await;
                let chunk = vec![b'x'; 1 << 20];
                for _ in 0..256 {
                    use tokio::io::AsyncWriteExt;
                    if connection.stream.write_all(&chunk).await.is_err() {
                        return;
                    }
                    sent.fetch_add(chunk.len(), Ordering::SeqCst);
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        client.read_until("\r\n\r\n").await;
        // Nothing more is read: sooner or later the origin can send no more.
        let mut last = usize::MAX;
        eventually("the origin is held back", async || {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let now = sent.load(Ordering::SeqCst);
            std::mem::replace(&mut last, now) == now
        })
        .await;
        let held = sent.load(Ordering::SeqCst);
        assert!(held < 64 << 20, "{held} bytes were taken that nobody had read");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_origins_work() {
    within(async {
        let gone = Arc::new(AtomicUsize::new(0));
        let counter = gone.clone();
        let origin = Origin::scripted(move |mut connection| {
            let gone = counter.clone();
            async move {
                if connection.request().await.is_some() && connection.request().await.is_none() {
                    gone.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("the origin has the request", async || !origin.requests().is_empty()).await;
        drop(client);
        eventually("the origin's connection ends", async || gone.load(Ordering::SeqCst) == 1).await;
        assert!(proxy.log_lines(1).await[0].contains("aborted=true"));
    })
    .await;
}

#[tokio::test]
async fn a_chunked_upload_arrives_as_it_was() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let answer = ask(
            proxy.address,
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n\
             3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .await;
        assert_eq!(answer.status, 200);
        let request = origin.request();
        assert!(!request.contains("ext"), "{request}");
        let body = request.split("\r\n\r\n").nth(1).unwrap();
        let data: String = body.lines().skip(1).step_by(2).collect();
        assert_eq!(data, "abcde");
    })
    .await;
}

#[tokio::test]
async fn a_get_with_a_chunked_body_keeps_it() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let get = "GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(ask(proxy.address, get).await.status, 200);
        assert!(origin.request().contains("abc"), "{}", origin.request());
    })
    .await;
}
