//! Chunks that could be measured in two ways (RFC 9112 §7.1), and what follows
//! the last of them.

use crate::support::attack::{BARE, Case, Expect, Target, VIA, case};
use crate::support::client::fields;
use crate::support::within;

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
const HEAD: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n";

/// Each of these bodies breaks off, wherever the mistake stands.
fn broken(bodies: &[String]) -> Vec<Case<'static>> {
    let each = |body: &String| {
        let name: String = body.escape_debug().take(60).collect();
        case(name, format!("{HEAD}\r\n{body}{SMUGGLED}"), Expect::BrokenOff(&[400]))
    };
    bodies.iter().map(each).collect()
}

#[tokio::test]
async fn a_size_that_is_no_number_is_refused() {
    within(async {
        let sizes = [
            "",
            " ",
            "+3",
            "-3",
            "0x3",
            "3h",
            "g",
            "3_0",
            "3.0",
            "3 3",
            " 3",
            "\t3",
            "\u{ff13}",
            "\"3\"",
            ";a",
            ";",
            "-",
            "3\0",
            "3\u{b}",
            "10000000000000000",
            "fffffffffffffffff",
            "ffffffffffffffffffffffffffffffff",
            "3,3",
            "3:3",
            "0 0",
        ];
        let bodies = sizes.map(|size| format!("{size}\r\nabc\r\n0\r\n\r\n"));
        Target::new().await.check(broken(&bodies)).await;
    })
    .await;
}

#[tokio::test]
async fn chunk_data_is_as_long_as_announced() {
    within(async {
        let bodies = [
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nab\r\n0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabc\r0\r\n\r\n",
            "3\r\nabc\r\r\n0\r\n\r\n",
            "3\r\nabc \r\n0\r\n\r\n",
            "3\r\nabc\0\0",
            "3\r\nabc\r\n\r\n0\r\n\r\n",
        ];
        Target::new().await.check(broken(&bodies.map(ToOwned::to_owned))).await;
    })
    .await;
}

#[tokio::test]
async fn a_chunk_line_ends_in_cr_lf() {
    within(async {
        let bodies = [
            "3\nabc\r\n0\r\n\r\n",
            "3\nabc\n0\n\n",
            "3\r\nabc\r\n0\n\r\n",
            "3\r\nabc\r\n0\n\n",
            "3\rabc\r\n0\r\n\r\n",
            "3\r\r\nabc\r\n0\r\n\r\n",
            "3\n\r\nabc\r\n0\r\n\r\n",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
            "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n",
            "3;a\rb\r\nabc\r\n0\r\n\r\n",
            "3;a\0b\r\nabc\r\n0\r\n\r\n",
        ];
        Target::new().await.check(broken(&bodies.map(ToOwned::to_owned))).await;
    })
    .await;
}

#[tokio::test]
async fn a_chunk_line_has_a_limit() {
    within(async {
        let long = "x".repeat(20_000);
        let bodies = [
            format!("3;{long}\r\nabc\r\n0\r\n\r\n"),
            format!("3;a={long}"),
            format!("3;a=\"{long}\"\r\nabc\r\n0\r\n\r\n"),
            format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(20_000)),
            format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(30)),
            format!("3{}\r\nabc\r\n0\r\n\r\n", ";".repeat(20_000)),
            format!("3{}\r\nabc\r\n0\r\n\r\n", " ".repeat(20_000)),
            // Each short enough, and all together many times the content.
            format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "y".repeat(200)).repeat(2_000)),
        ];
        Target::new().await.check(broken(&bodies)).await;
    })
    .await;
}

#[tokio::test]
async fn what_a_chunk_line_may_have_ends_here() {
    within(async {
        let seen = |chunks: &str| {
            let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\n{VIA}");
            format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
        };
        let (three, ten) = (seen("3\r\nabc\r\n"), seen("a\r\n0123456789\r\n"));
        let good = |sent: &str, seen| {
            case(sent.escape_debug().to_string(), format!("{HEAD}\r\n{sent}"), seen)
        };
        let cases = [
            good("3;a\r\nabc\r\n0\r\n\r\n", Expect::Forwarded(&three)),
            good("3;a=b;c=\"d e\"\r\nabc\r\n0;x\r\n\r\n", Expect::Forwarded(&three)),
            good("0003\r\nabc\r\n000\r\n\r\n", Expect::Forwarded(&three)),
            good("A\r\n0123456789\r\n0\r\n\r\n", Expect::Forwarded(&ten)),
            good("a\r\n0123456789\r\n0\r\n\r\n", Expect::Forwarded(&ten)),
        ];
        Target::new().await.check(cases).await;
    })
    .await;
}

#[tokio::test]
async fn a_malformed_trailer_section_is_refused() {
    within(async {
        let trailers = [
            "no colon\r\n\r\n",
            ": x\r\n\r\n",
            "X : y\r\n\r\n",
            "X Y: z\r\n\r\n",
            "X: a\0b\r\n\r\n",
            "X: a\rb\r\n\r\n",
            "X: a\r\n folded\r\n\r\n",
            " X: a\r\n\r\n",
        ];
        let body = |trailers: &str| format!("3\r\nabc\r\n0\r\n{trailers}");
        let mut bodies: Vec<String> = trailers.iter().map(|trailers| body(trailers)).collect();
        bodies.push(body(&format!("{}\r\n", "X: y\r\n".repeat(2_000))));
        bodies.push(body(&format!("X: {}\r\n\r\n", "y".repeat(200_000))));
        Target::new().await.check(broken(&bodies)).await;
    })
    .await;
}

#[tokio::test]
async fn a_trailer_section_ends_in_cr_lf() {
    within(async {
        let bodies = [
            "3\r\nabc\r\n0\r\nX: y\n\r\n",
            "3\r\nabc\r\n0\r\nX: y\r\n\n",
            "3\r\nabc\r\n0\r\n\n",
            "3\r\nabc\r\n0\r\nX: y\n\n",
        ];
        Target::new().await.check(broken(&bodies.map(ToOwned::to_owned))).await;
    })
    .await;
}

#[tokio::test]
async fn trailers_are_forwarded_as_announced_and_as_they_may() {
    within(async {
        let api_key = "api_key = { identity_header = \"X-User\", \
                       keys = [{ name = \"x\", key = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\" }] }";
        let other = format!(
            "{BARE}[[route]]\nname = \"key\"\npath = \"/key\"\nupstream = \"origin\"\n{api_key}"
        );
        let target = Target::with("", &other).await;
        let announced = "X-Sum, Content-Length, Transfer-Encoding, Host, Authorization, Cookie, \
                         Trailer, Connection, Expect, Via, Forwarded, X-Forwarded-For, X-Real-IP, \
                         X-User, X_User, Content-Type, Set-Cookie, TE, Max-Forwards";
        let trailers: String = announced
            .split(", ")
            .chain(["X-Not-Announced"])
            .map(|name| format!("{name}: 1\r\n"))
            .collect();
        let sent = format!("{HEAD}Trailer: {announced}\r\n\r\n3\r\nabc\r\n0\r\n{trailers}\r\n");
        let outcome = target.attack(sent).await;
        assert_eq!((outcome.statuses(), outcome.whole), (vec![200], 1), "{outcome}");
        let (_, section) = outcome.origin_saw.split_once("\r\n0\r\n").unwrap();
        assert_eq!(section, "x-sum: 1\r\n\r\n");
        let head = outcome.origin_saw.split("\r\n\r\n").next().unwrap();
        for line in fields(head, "trailer") {
            assert!(!line.to_ascii_lowercase().contains("user"), "{head}");
        }
    })
    .await;
}
