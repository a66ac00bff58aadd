//! Two readings of where a message ends (RFC 9112 §6): a request that is not
//! refused reaches the origin as one, framed in one way.

use crate::support::attack::{Case, Expect, Target, VIA, case};
use crate::support::within;

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n{body}")
}

/// These fields, each with a body that is a request to whom they tell so.
fn refused<'e>(fields: &[&str], statuses: &'e [u16]) -> Vec<Case<'e>> {
    let each = |fields: &&str| {
        let body = format!("0\r\n\r\n{SMUGGLED}");
        case(fields.escape_debug().to_string(), post(fields, &body), Expect::Refused(statuses))
    };
    fields.iter().map(each).collect()
}

#[tokio::test]
async fn both_framings_at_once_are_refused() {
    within(async {
        let fields = [
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            "Content-Length: 6\r\nTransfer-Encoding: CHUNKED\r\n",
            "Content-Length: 6\r\nX: y\r\ntransfer-encoding:chunked\r\n",
            "Content-Length: 6\r\nTransfer-Encoding: identity\r\n",
            "Content-Length: 6\r\nTransfer-Encoding: \r\n",
        ];
        Target::new().await.check(refused(&fields, &[400, 501])).await;
    })
    .await;
}

#[tokio::test]
async fn several_lengths_are_refused() {
    within(async {
        let fields = [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 6\r\nContent-Length: 5\r\n",
            "Content-Length: 0\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nX: y\r\ncontent-length: 0\r\n",
            "Content-Length: 5, 6\r\n",
            "Content-Length: 5,5\r\n",
            "Content-Length: 5\r\nContent-Length: 5, 5\r\n",
            "Content-Length: 5\r\nContent-Length: \r\n",
        ];
        Target::new().await.check(refused(&fields, &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn the_same_length_twice_is_refused() {
    within(async {
        let fields = [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 0\r\nContent-Length: 0\r\n",
            "Content-Length: 5\r\nContent-Length: 05\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
        ];
        Target::new().await.check(refused(&fields, &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn a_length_that_is_no_number_is_refused() {
    within(async {
        let values = [
            "",
            "+5",
            "-5",
            "+0",
            "5 5",
            "5\t5",
            "0x5",
            "5_0",
            "5.0",
            "5e0",
            "5;",
            "\"5\"",
            "(5)",
            "a",
            "0a",
            "\u{ff15}",
            "\u{665}",
            ",5",
            "5,",
            "18446744073709551616",
            "18446744073709551620",
            "99999999999999999999999999999999",
            "-0",
            "5 ,",
            "NaN",
        ];
        let fields = values.map(|value| format!("Content-Length: {value}\r\n"));
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        Target::new().await.check(refused(&fields, &[400, 413])).await;
    })
    .await;
}

#[tokio::test]
async fn a_transfer_coding_other_than_chunked_alone_is_refused() {
    within(async {
        let values = [
            "",
            "identity",
            "gzip",
            "gzip, chunked",
            "chunked, gzip",
            "chunked, identity",
            "identity, chunked",
            "chunked, chunked",
            "chunked,",
            ", chunked",
            "xchunked",
            "chunkedx",
            "chunked x",
            "x chunked",
            "chun ked",
            "chunked;q=1",
            "chunked; a=b",
            "\"chunked\"",
            "'chunked'",
            "chunked\tx",
            "\u{ff43}hunked",
            "chunke\u{212a}d",
            "cow",
            "0",
            "c",
            "chunked\u{a0}",
        ];
        let fields = values.map(|value| format!("Transfer-Encoding: {value}\r\n"));
        let twice = [
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nX: y\r\nTransfer-Encoding: cow\r\n",
        ];
        let fields: Vec<&str> = fields.iter().map(String::as_str).chain(twice).collect();
        Target::new().await.check(refused(&fields, &[400, 501])).await;
    })
    .await;
}

#[tokio::test]
async fn a_transfer_coding_hidden_in_whitespace_or_controls_is_refused() {
    within(async {
        let fields = [
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding\t: chunked\r\n",
            "Transfer-Encoding\0: chunked\r\n",
            "Transfer-Encoding:\u{b}chunked\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "Transfer-Encoding: chunked\u{b}\r\n",
            "Transfer-Encoding: chunked\u{c}\r\n",
            "Transfer-Encoding: chunked\0\r\n",
            "Transfer-Encoding:\r\n chunked\r\n",
            "Transfer-Encoding\r\n : chunked\r\n",
            " Transfer-Encoding: chunked\r\n",
            "X: y\rTransfer-Encoding: chunked\r\n",
            "X: y\r\rTransfer-Encoding: chunked\r\n",
            "\u{b}Transfer-Encoding: chunked\r\n",
            "X\r\n\tTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding;: chunked\r\n",
        ];
        Target::new().await.check(refused(&fields, &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn a_name_that_is_taken_for_one_that_frames_is_refused() {
    within(async {
        let fields = [
            "Content-Length: 5\r\nTransfer_Encoding: chunked\r\n",
            "Content-Length: 5\r\nTransfer.Encoding: chunked\r\n",
            "Content_Length: 5\r\n",
            "CONTENT_LENGTH: 5\r\nContent-Length: 5\r\n",
        ];
        Target::new().await.check(refused(&fields, &[400])).await;
    })
    .await;
}

#[tokio::test]
async fn chunked_belongs_to_http_1_1() {
    within(async {
        let chunked = "Transfer-Encoding: chunked\r\n";
        let old =
            |fields: &str| format!("POST / HTTP/1.0\r\nHost: a.test\r\n{fields}\r\n0\r\n\r\n");
        let refused = |fields: &str| case(fields, old(fields), Expect::Refused(&[400]));
        let keep_alive = format!("{chunked}Connection: keep-alive\r\n");
        let both = format!("{chunked}Content-Length: 5\r\n");
        Target::new().await.check([chunked, &keep_alive, &both].map(refused)).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_framed_well_is_one_request_however_it_looks_inside() {
    within(async {
        let length = SMUGGLED.len();
        let seen = |framing: &str, body: &str| {
            format!("POST / HTTP/1.1\r\nhost: a.test\r\n{VIA}{framing}\r\n\r\n{body}")
        };
        let sized = seen(&format!("content-length: {length}"), SMUGGLED);
        let chunked =
            seen("transfer-encoding: chunked", &format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"));
        let chunks = format!("{length:X}\r\n{SMUGGLED}\r\n0\r\n\r\n");
        let mut cases = Vec::new();
        for value in [format!("{length}"), format!("00{length}"), format!("  {length}\t ")] {
            let sent = post(&format!("Content-Length:{value}\r\n"), SMUGGLED);
            cases.push(case(value, sent, Expect::Forwarded(&sized)));
        }
        for value in ["chunked", "Chunked", "CHUNKED", "\t chunked  "] {
            let sent = post(&format!("tRANSFER-eNCODING:{value}\r\n"), &chunks);
            cases.push(case(value, sent, Expect::Forwarded(&chunked)));
        }
        let none = format!("POST / HTTP/1.1\r\nhost: a.test\r\n{VIA}content-length: 0\r\n\r\n");
        cases.push(case("no framing", post("", ""), Expect::Forwarded(&none)));
        cases.push(case("0", post("Content-Length: 0\r\n", ""), Expect::Forwarded(&none)));
        Target::new().await.check(cases).await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_its_method_does_not_expect_keeps_its_framing() {
    within(async {
        let target = Target::new().await;
        for method in ["GET", "DELETE", "OPTIONS", "PROPFIND"] {
            let length = SMUGGLED.len();
            let sent =
                format!("{method} / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
            let seen = format!(
                "{method} / HTTP/1.1\r\nhost: a.test\r\n{VIA}content-length: {length}\r\n\r\n"
            );
            let (sent, seen) = (sent + SMUGGLED, seen + SMUGGLED);
            target.check([case(method, sent, Expect::Forwarded(&seen))]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_nobody_read_is_never_taken_for_a_request() {
    within(async {
        let routes = "[[route]]\nname = \"fixed\"\npath = \"/fixed\"\nrespond = { body = \"x\" }\n\
                      [[route]]\nname = \"moved\"\npath = \"/moved\"\nredirect = { to = \"https\" }\n\
                      [[route]]\nname = \"small\"\npath = \"/small\"\nupstream = \"origin\"\n\
                      max_request_body = 4\n\
                      [[route]]\nname = \"get\"\npath = \"/get\"\nupstream = \"origin\"\n\
                      methods = [\"GET\"]\n\
                      [[route]]\nname = \"all\"\nupstream = \"origin\"";
        let origin = crate::support::attack::echoing().await;
        let proxy = crate::support::proxy::Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n{routes}\n"
        ))
        .start();
        let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
        let framings = [
            (format!("Content-Length: {}", SMUGGLED.len()), SMUGGLED),
            ("Transfer-Encoding: chunked".to_owned(), chunk.as_str()),
        ];
        for (path, status) in [("fixed", 200), ("moved", 308), ("small", 413), ("get", 405)] {
            for (framing, body) in &framings {
                for expect in ["", "Expect: 100-continue\r\n"] {
                    let mut client =
                        crate::support::client::Raw::connect(proxy.address).await;
                    let head = format!("POST /{path} HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n");
                    client.try_send(format!("{head}{expect}\r\n{body}")).await;
                    let mut answer = client.answer().await;
                    if answer.status == 100 {
                        answer = client.answer().await;
                    }
                    assert_eq!(answer.status, status, "{path} {framing} {expect}");
                    // Whether it was read to its end or the connection is closed.
                    client.try_send("GET /after HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
                    let rest = client.read_to_end_or("/after").await;
                    assert!(!client.text().contains("smuggled"), "{path}: {}", client.text());
                    assert!(rest || client.text().is_empty(), "{path}: {}", client.text());
                }
            }
        }
        for request in origin.requests() {
            assert!(!request.starts_with("GET /smuggled"), "{request}");
        }
    })
    .await;
}
