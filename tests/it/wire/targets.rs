//! Request targets and hosts (RFC 9112 §3.2, RFC 9110 §7): one host, and a target
//! of the form that its method has.

use crate::support::attack::{Case, Expect, Target, VIA, case};
use crate::support::within;

fn head(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\n{fields}\r\n")
}

const HOST: &str = "Host: a.test\r\n";

#[tokio::test]
async fn there_is_one_host_and_it_is_one() {
    within(async {
        let hosts = [
            "",
            "Host: a.test\r\nHost: a.test\r\n",
            "Host: a.test\r\nHost: b.test\r\n",
            "Host: a.test\r\nX: y\r\nhost: b.test\r\n",
            "Host:\r\n",
            "Host: \r\n",
            "Host: user@a.test\r\n",
            "Host: user:word@a.test\r\n",
            "Host: a.test/path\r\n",
            "Host: a.test, b.test\r\n",
            "Host: a.test,\r\n",
            "Host: a.test b.test\r\n",
            "Host: a.test:\u{ff18}0\r\n",
            "Host: a.test:port\r\n",
            "Host: a.test:99999\r\n",
            "Host: a.test:80:80\r\n",
            "Host: a.test:-1\r\n",
            "Host: a.test:8 0\r\n",
            "Host: :80\r\n",
            "Host: http://a.test\r\n",
            "Host: //a.test\r\n",
            "Host: a.test?x\r\n",
            "Host: a.test#x\r\n",
            "Host: a.test\\b\r\n",
            "Host: a%2etest\r\n",
            "Host: a.test%00\r\n",
            "Host: \"a.test\"\r\n",
            "Host: <a.test>\r\n",
            "Host: .\r\n",
            "Host: .a.test\r\n",
            "Host: a..test\r\n",
            "Host: *\r\n",
            "Host: [::1\r\n",
            "Host: ::1\r\n",
            "Host: [a.test]\r\n",
            "Host: [fe80::1%eth0]\r\n",
            "Host: [::1]80\r\n",
            "Host: \u{e9}\r\n",
        ];
        let refused = |host: &str| {
            let name = host.escape_debug().to_string();
            case(name, head("GET /", host), Expect::Refused(&[400]))
        };
        Target::new().await.check(hosts.map(refused)).await;
    })
    .await;
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_wins() {
    within(async {
        let seen = |target: &str, host: &str| {
            format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{VIA}\r\n")
        };
        let (b, port, empty, query) = (
            seen("/x?y", "b.test"),
            seen("/", "b.test:8080"),
            seen("/", "b.test"),
            seen("/?x=//y", "b.test"),
        );
        let cases = [
            ("GET http://b.test/x?y", &b),
            ("GET HTTP://b.test/x?y", &b),
            ("GET http://b.test:8080/", &port),
            ("GET http://b.test", &empty),
            ("GET http://b.test?x=//y", &query),
        ];
        let cases = cases.map(|(line, seen)| case(line, head(line, HOST), Expect::Forwarded(seen)));
        Target::new().await.check(cases).await;
    })
    .await;
}

#[tokio::test]
async fn an_absolute_target_that_is_none_of_ours_is_refused() {
    within(async {
        let targets = [
            "http://user@b.test/",
            "http://user:word@b.test/",
            "http://@b.test/",
            "http:///x",
            "http://",
            "http:/x",
            "http:x",
            "http://b.test:port/",
            "http://b.test:99999/",
            "http://b.test,c.test/",
            "http://b..test/",
            "http://[::1/",
            "http://b.test\\@c.test/",
            "ftp://b.test/",
            "file:///etc/passwd",
            "gopher://b.test/",
            "ws://b.test/",
            "javascript://b.test/",
            "://b.test/",
            "http//b.test/",
            "http://b%2etest/",
        ];
        let refused = |target: &str| {
            case(target, head(&format!("GET {target}"), HOST), Expect::Refused(&[400]))
        };
        let target = Target::new().await;
        target.check(targets.map(refused)).await;
        let secure = head("GET https://a.test/", HOST);
        target.check([case("https without TLS", secure, Expect::Declined(421))]).await;
    })
    .await;
}

#[tokio::test]
async fn a_form_belongs_to_its_method() {
    within(async {
        let lines = [
            "GET *",
            "POST *",
            "GET a.test",
            "GET a.test:80",
            "GET a.test:80/x",
            "GET x",
            "GET ?x",
            "OPTIONS *x",
            "OPTIONS *?x",
            "OPTIONS **",
            "OPTIONS a.test:80",
            "GET @a.test",
            "GET ./x",
            "GET ../x",
            "GET \\x",
            "GET ;x",
            "GET %2f",
        ];
        let refused = |line: &str| case(line, head(line, HOST), Expect::Refused(&[400]));
        Target::new().await.check(lines.map(refused)).await;
    })
    .await;
}

#[tokio::test]
async fn a_target_has_no_fragment() {
    within(async {
        let targets = ["/#", "/a#b", "/?a#b", "#", "/#/../admin", "http://a.test/#x"];
        let refused = |target: &str| {
            case(target, head(&format!("GET {target}"), HOST), Expect::Refused(&[400]))
        };
        Target::new().await.check(targets.map(refused)).await;
    })
    .await;
}

#[tokio::test]
async fn a_target_that_is_too_long_is_414() {
    within(async {
        let target = Target::with("max_target = 1000", "").await;
        let fits = format!("/{}", "x".repeat(999));
        let seen = format!("GET {fits} HTTP/1.1\r\nhost: a.test\r\n{VIA}\r\n");
        let long = format!("GET {fits}x");
        let query = format!("GET /?{}", "x=y&".repeat(300));
        let cases = [
            case("fits", head(&format!("GET {fits}"), HOST), Expect::Forwarded(&seen)),
            case("a byte too long", head(&long, HOST), Expect::Declined(414)),
            case("many parameters", head(&query, HOST), Expect::Declined(414)),
        ];
        target.check(cases).await;
    })
    .await;
}

#[tokio::test]
async fn connect_and_trace_are_refused_and_other_methods_are_the_routes_affair() {
    within(async {
        let target = Target::new().await;
        let refused =
            ["TRACE /", "TRACE *", "CONNECT a.test:443", "CONNECT /", "CONNECT http://a.test/"];
        for line in refused {
            let outcome = target.attack(head(line, &format!("{HOST}Max-Forwards: 0\r\n"))).await;
            assert_eq!(outcome.origin_saw, "", "{line}");
            assert!(matches!(outcome.statuses()[..], [400 | 405]), "{line}: {outcome}");
            let says = outcome.answers[0].field("allow").is_some();
            assert_eq!(says, outcome.answers[0].status == 405, "{line}");
        }
        let seen = ["BREW", "get", "PROPFIND", "M-SEARCH"]
            .map(|method| (method, format!("{method} / HTTP/1.1\r\nhost: a.test\r\n{VIA}\r\n")));
        let passed = seen.iter().map(|(method, seen)| {
            case(*method, head(&format!("{method} /"), HOST), Expect::Forwarded(seen))
        });
        target.check(passed).await;
        let only = Target::with("", "methods = [\"GET\", \"POST\"]").await;
        let refused = ["DELETE", "get", "BREW", "OPTIONS", "PUT"]
            .map(|method| case(method, head(&format!("{method} /"), HOST), Expect::Declined(405)));
        only.check(refused).await;
        let outcome = only.attack(head("DELETE /", HOST)).await;
        assert_eq!(outcome.answers[0].field("allow"), Some("GET, POST, HEAD"));
        let post = format!("POST / HTTP/1.1\r\nhost: a.test\r\n{VIA}content-length: 0\r\n\r\n");
        let fields = format!("{HOST}X-HTTP-Method-Override: DELETE\r\nX_Method_Override: PUT\r\n");
        only.check([case("override", head("POST /", &fields), Expect::Forwarded(&post))]).await;
    })
    .await;
}

#[tokio::test]
async fn options_go_as_far_as_max_forwards_says() {
    within(async {
        let target = Target::new().await;
        let options = |target: &str, left: &str| {
            let left =
                if left.is_empty() { String::new() } else { format!("Max-Forwards: {left}\r\n") };
            head(&format!("OPTIONS {target}"), &format!("{HOST}{left}"))
        };
        for (path, left) in [("*", ""), ("*", "7"), ("*", "0"), ("/", "0"), ("/x", "00")] {
            let outcome = target.attack(options(path, left)).await;
            assert_eq!((outcome.statuses(), outcome.closed), (vec![200], false), "{path} {left}");
            assert_eq!(outcome.origin_saw, "", "{path} {left}");
            let answer = &outcome.answers[0];
            assert_eq!(answer.field("content-length"), Some("0"), "{}", answer.head);
            assert!(answer.field("allow").unwrap().contains("OPTIONS"), "{}", answer.head);
        }
        let seen = |left: &str| {
            let start = "OPTIONS / HTTP/1.1\r\nhost: a.test\r\n";
            format!("{start}max-forwards: {left}\r\n{VIA}\r\n")
        };
        let (nine, none, most) = (seen("9"), seen("0"), seen("4294967294"));
        target
            .check([
                case("10", options("/", "10"), Expect::Forwarded(&nine)),
                case("1", options("/", "1"), Expect::Forwarded(&none)),
                case("more than can be", options("/", &"9".repeat(50)), Expect::Forwarded(&most)),
            ])
            .await;
        let bad = ["-1", "+1", "1.0", "x", "1, 1", "1\r\nMax-Forwards: 1", "0x1", "1 0"];
        target.check(bad.map(|left| case(left, options("/", left), Expect::Declined(400)))).await;
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_to_http_2_is_not_passed_on() {
    within(async {
        let seen = format!("GET / HTTP/1.1\r\nhost: a.test\r\n{VIA}\r\n");
        let settings = "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n";
        let cases: Vec<Case<'_>> = [
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n",
            "Upgrade: h2c\r\nConnection: Upgrade\r\n",
            "Upgrade: h2c\r\n",
            "Upgrade: H2C\r\nConnection: upgrade\r\n",
            "Upgrade: h2c, websocket\r\nConnection: Upgrade\r\n",
            "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n",
            "Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
            "Upgrade: h2\r\nConnection: Upgrade\r\n",
            "Upgrade: HTTP/2.0\r\nConnection: Upgrade\r\n",
            "Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
        ]
        .into_iter()
        .map(|fields| {
            let sent = head("GET /", &format!("{HOST}{fields}{settings}"));
            case(fields.escape_debug().to_string(), sent, Expect::Forwarded(&seen))
        })
        .collect();
        Target::new().await.check(cases).await;
    })
    .await;
}

#[tokio::test]
async fn a_redirect_of_ours_leads_where_it_was_told_to() {
    within(async {
        let routes = "[[route]]\nname = \"https\"\nredirect = { to = \"https\" }\n\
                      [[route]]\nname = \"moved\"\npath = \"/moved\"\n\
                      redirect = { to = \"https://b.test\", keep_path = true }\n";
        let proxy = crate::support::proxy::Setup::new(routes).start();
        let ask = async |target: &str, host: &str| {
            let request = head(&format!("GET {target}"), &format!("Host: {host}\r\n"));
            let answer = crate::support::client::ask(proxy.address, request).await;
            (answer.status, answer.field("location").unwrap_or_default().to_owned())
        };
        for (target, location) in [
            ("//evil.test/x", "https://a.test//evil.test/x"),
            ("/@evil.test", "https://a.test/@evil.test"),
            ("/moved//evil.test", "https://b.test/moved//evil.test"),
            ("/moved?@evil.test", "https://b.test/moved?@evil.test"),
            ("/moved%0d%0aX: y", ""),
            ("/%0d%0aSet-Cookie:x=y", ""),
            ("/\\evil.test", ""),
            ("http://a.test?@evil.test/", "https://a.test/?@evil.test/"),
        ] {
            let (status, got) = ask(target, "a.test").await;
            assert_eq!(got, location, "{target}");
            assert_eq!(status, if location.is_empty() { 400 } else { 308 }, "{target}");
        }
        for host in ["a.test@evil.test", "evil.test/", "evil.test#", "evil.test?", "a.test\\evil"] {
            assert_eq!(ask("/", host).await, (400, String::new()), "{host}");
        }
    })
    .await;
}
