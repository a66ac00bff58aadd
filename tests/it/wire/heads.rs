//! Heads that two parsers could take apart in two ways (RFC 9112 §2 to §5), and
//! heads without end.

use crate::support::attack::{Case, Expect, Target, VIA, case};
use crate::support::client::Raw;
use crate::support::within;

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")
}

fn all<'e>(requests: impl IntoIterator<Item = String>, statuses: &'e [u16]) -> Vec<Case<'e>> {
    let each = |sent: String| {
        let name: String = sent.escape_debug().take(80).collect();
        case(name, sent, Expect::Refused(statuses))
    };
    requests.into_iter().map(each).collect()
}

#[tokio::test]
async fn a_field_line_is_a_name_a_colon_and_a_value() {
    within(async {
        let lines = [
            "X : y",
            "X\t: y",
            "X  : y",
            ": y",
            " : y",
            "X Y: z",
            "X\tY: z",
            "no colon",
            "X",
            "=: y",
            "(X): y",
            "X/Y: z",
            "X@Y: z",
            "X;Y: z",
            "X,Y: z",
            "\"X\": y",
            "X[0]: y",
            "{X}: y",
            "X\\: y",
            "\u{e9}: y",
            "X\u{b}: y",
            "X\u{7f}: y",
            "X<Y>: z",
            "X?: y",
        ];
        let lines = lines.map(|line| get(&format!("A: b\r\n{line}\r\nC: d\r\n")));
        // The first is the one that some parsers take for a part of the request line.
        let first = [" X: y", "\tX: y", "X : y", ": y"]
            .map(|line| format!("GET / HTTP/1.1\r\n{line}\r\nHost: a.test\r\n\r\n"));
        let host = ["Host : a.test", " Host: a.test", "\tHost: a.test", "Host\u{b}: a.test"]
            .map(|line| format!("GET / HTTP/1.1\r\n{line}\r\n\r\n"));
        let all = all(lines.into_iter().chain(first).chain(host), &[400]);
        Target::new().await.check(all).await;
    })
    .await;
}

#[tokio::test]
async fn a_folded_field_is_refused() {
    within(async {
        let folded = [
            "X: y\r\n z\r\n",
            "X: y\r\n\tz\r\n",
            "X:\r\n y\r\n",
            "X: y\r\n \r\n",
            "X: y\r\n Transfer-Encoding: chunked\r\n",
            "Content-Length:\r\n 5\r\n",
        ];
        let folded = folded.iter().map(|fields| get(fields));
        let host = "GET / HTTP/1.1\r\nHost: a.test\r\n b.test\r\n\r\n".to_owned();
        Target::new().await.check(all(folded.chain([host]), &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn a_line_ends_in_cr_lf() {
    within(async {
        let requests = [
            "GET / HTTP/1.1\nHost: a.test\n\n",
            "GET / HTTP/1.1\nHost: a.test\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\nZ: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\n\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\n\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\n\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ];
        Target::new().await.check(all(requests.map(ToOwned::to_owned), &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn a_cr_without_its_lf_is_refused() {
    within(async {
        let requests = [
            "GET / HTTP/1.1\rHost: a.test\r\n\r\n",
            "GET / HTTP/1.1\r\rHost: a.test\r\n\r\n",
            "GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\rX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\rz\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\nX: \ry\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\nX\r: y\r\n\r\n",
            "GET /\r HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "GET\r/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\n\r\r\n\r\n",
        ];
        Target::new().await.check(all(requests.map(ToOwned::to_owned), &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn a_control_character_is_refused_wherever_it_stands() {
    within(async {
        let mut requests = Vec::new();
        for control in (0..0x20_u8).chain([0x7f]).filter(|byte| !b"\t\n\r".contains(byte)) {
            let control = char::from(control);
            requests.push(get(&format!("X: a{control}b\r\n")));
            requests.push(get(&format!("X: {control}\r\n")));
            requests.push(get(&format!("X{control}: y\r\n")));
            requests.push(format!("GET /{control} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
            requests.push(format!("G{control}T / HTTP/1.1\r\nHost: a.test\r\n\r\n"));
            requests.push(format!("GET / HTTP/1.1\r\nHost: a.{control}test\r\n\r\n"));
        }
        Target::new().await.check(all(requests, &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn a_request_line_is_three_words() {
    within(async {
        let lines = [
            "",
            "GET",
            "GET /",
            "GET HTTP/1.1",
            "/ HTTP/1.1",
            "GET / HTTP/1.1 x",
            "GET / x HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GE(T / HTTP/1.1",
            "GET@ / HTTP/1.1",
            "\u{e9} / HTTP/1.1",
            "GET: / HTTP/1.1",
            "HTTP/1.1 200 OK",
            "{\"a\":1}",
            "\u{16}\u{3}\u{1}",
            "SSH-2.0-x",
        ];
        let requests = lines.map(|line| format!("{line}\r\nHost: a.test\r\n\r\n"));
        Target::new().await.check(all(requests, &[400, 505])).await;
    })
    .await;
}

#[tokio::test]
async fn the_words_of_a_request_line_are_one_space_apart() {
    within(async {
        let lines = [
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /\tHTTP/1.1",
            " GET / HTTP/1.1",
            "\tGET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET / HTTP/1.1\t",
            "GET \u{b}/ HTTP/1.1",
            "GET / HTTP/1.1\u{c}",
            "GET \u{a0}/ HTTP/1.1",
        ];
        let requests = lines.map(|line| format!("{line}\r\nHost: a.test\r\n\r\n"));
        Target::new().await.check(all(requests, &[400, 505])).await;
    })
    .await;
}

#[tokio::test]
async fn the_version_is_1_0_or_1_1() {
    within(async {
        let versions = [
            "HTTP/0.9",
            "HTTP/1.2",
            "HTTP/1.9",
            "HTTP/2.0",
            "HTTP/2",
            "HTTP/3",
            "HTTP/3.0",
            "HTTP/1",
            "HTTP/1.",
            "HTTP/1.10",
            "HTTP/01.1",
            "HTTP/1.01",
            "HTTP/11",
            "http/1.1",
            "Http/1.1",
            "HTTP /1.1",
            "HTTP/ 1.1",
            "HTTP/1 .1",
            "HTTP/1.1x",
            "HTTP/1,1",
            "HTTP/+1.1",
            "HTTP/-1.1",
            "HTTP/x.y",
            "HTTPS/1.1",
            "HTP/1.1",
            "RTSP/1.0",
            "ICAP/1.0",
            "HTTP\\1.1",
            "HTTP/1.1,",
        ];
        let requests = versions.map(|version| format!("GET / {version}\r\nHost: a.test\r\n\r\n"));
        Target::new().await.check(all(requests, &[400, 505])).await;
    })
    .await;
}

#[tokio::test]
async fn one_empty_line_before_a_request_is_passed_over() {
    within(async {
        let seen = format!("GET / HTTP/1.1\r\nhost: a.test\r\n{VIA}\r\n");
        let good = case("one", format!("\r\n{}", get("")), Expect::Forwarded(&seen));
        Target::new().await.check([good]).await;
    })
    .await;
}

#[tokio::test]
async fn more_than_one_empty_line_before_a_request_is_refused() {
    within(async {
        let starts =
            ["\r\n\r\n", "\r\n\r\n\r\n", "\n", "\n\n", "\r", "\r\r\n", "\r\n\n", "\r\n \r\n"];
        let requests = starts.map(|start| format!("{start}{}", get("")));
        Target::new().await.check(all(requests, &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn a_head_without_end_is_answered_before_it_ends() {
    within(async {
        let target = Target::new().await;
        let cookie = "c".repeat(64 * 1024);
        let cases = [
            ("a long target", "GET /", cookie.as_str(), [414, 431]),
            ("a long method", "", cookie.as_str(), [400, 414]),
            (
                "a long value",
                "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: ",
                cookie.as_str(),
                [431; 2],
            ),
            ("a long name", "GET / HTTP/1.1\r\nHost: a.test\r\n", cookie.as_str(), [431, 400]),
            ("many fields", "GET / HTTP/1.1\r\nHost: a.test\r\n", "X: y\r\n", [431; 2]),
            (
                "many long fields",
                "GET / HTTP/1.1\r\nHost: a.test\r\n",
                "Xxxxx: yyyyyyyyy\r\n",
                [431; 2],
            ),
        ];
        for (name, start, again, statuses) in cases {
            let mut client = Raw::connect(target.proxy.address).await;
            client.try_send(start).await;
            // 10 MB, unless the proxy closes before.
            let part = again.repeat(1 + 64 * 1024 / again.len());
            for _ in 0..160 {
                client.try_send(&part).await;
            }
            let all = String::from_utf8(client.read_to_end().await).unwrap();
            let status = all.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
            // What was sent on towards a closed connection may cost the answer.
            assert!(status == 0 || statuses.contains(&status), "{name}: {all}");
        }
        let thousand: String = (0..1_000).map(|n| format!("X-{n}: y\r\n")).collect();
        let refused = [
            case("1,000 fields", get(&thousand), Expect::Refused(&[431])),
            case(
                "a head of 70 kB",
                get(&format!("X: {}\r\n", "y".repeat(70_000))),
                Expect::Refused(&[431]),
            ),
        ];
        target.check(refused).await;
        assert_eq!(target.origin.connections(), 1, "only the good requests came through");
    })
    .await;
}

#[tokio::test]
async fn the_answer_to_a_head_without_end_reaches_a_client_that_still_sends() {
    within(async {
        let target = Target::new().await;
        // More than the buffers of both sockets hold: were the connection reset, this
        // could not be sent.
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(16 << 20));
        let malformed = format!("GET / HTTP/1.1\r\nX : y\r\n\r\n{}", "z".repeat(16 << 20));
        for (request, status) in [(endless, "431"), (malformed, "400")] {
            let mut client = Raw::connect(target.proxy.address).await;
            client.send(request).await;
            let all = String::from_utf8(client.read_to_end().await).unwrap();
            assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{all}");
        }
    })
    .await;
}
