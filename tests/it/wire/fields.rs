//! Fields by which a client would say who or where it is (RFC 7239 §8.1), and
//! what it would have the log say.

use crate::support::attack::echoing;
use crate::support::client::{Raw, ask, fields, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::within;

const KEY: &str = "api_key = { identity_header = \"X-Auth-User\", \
                   keys = [{ name = \"joe\", key = \"env:TOLLGATE_TEST_WIRE_KEY\" }] }";

fn setup(origin: &Origin, routes: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n{routes}\n\
         [[route]]\nname = \"open\"\nupstream = \"origin\"\n"
    ))
}

/// The request that the origin got for these fields.
async fn received(origin: &Origin, address: std::net::SocketAddr, lines: &str) -> String {
    assert_eq!(get(address, "/", lines).await.status, 200, "{}", lines.escape_debug());
    origin.requests().pop().unwrap()
}

#[tokio::test]
async fn a_stranger_says_nothing_of_where_it_comes_from() {
    within(async {
        let origin = echoing().await;
        let proxy = setup(&origin, "").start();
        for name in [
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "X-Forwarded-Server",
            "X-Forwarded-Scheme",
            "X-Forwarded-Ssl",
            "X-Forwarded-User",
            "X-Forwarded-Email",
            "X-Forwarded-Groups",
            "X-Forwarded-Uri",
            "X-Forwarded-Client-Cert",
            "X-Forwarded-Anything",
            "Forwarded",
            "X-Real-IP",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "X-Original-Forwarded-For",
            "X-Original-URL",
            "X-Original-URI",
            "X-Original-Host",
            "X-Rewrite-URL",
            "True-Client-IP",
            "CF-Connecting-IP",
            "Fastly-Client-IP",
            "X-Request-Id",
        ] {
            let under = name.replace('-', "_");
            let mixed = name.replacen('-', "_", 1);
            let dotted = name.replace('-', ".");
            let other = name.replace('-', "~");
            for name in [name, &name.to_ascii_uppercase(), &under, &mixed, &dotted, &other] {
                for value in ["6.6.6.6", "for=6.6.6.6", "\"6.6.6.6\", 6.6.6.6"] {
                    let request =
                        received(&origin, proxy.address, &format!("{name}: {value}\r\n")).await;
                    assert!(!request.contains("6.6.6.6"), "{name}: {request}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_identity_is_never_brought_along() {
    within(async {
        // The key is nobody's: no route lets anyone in by it.
        let key = KEY.replace("env:TOLLGATE_TEST_WIRE_KEY", &format!("sha256:{}", "0".repeat(64)));
        let origin = echoing().await;
        let route =
            format!("[[route]]\nname = \"key\"\npath = \"/key\"\nupstream = \"origin\"\n{key}");
        let proxy = setup(&origin, &route).start();
        for name in [
            "X-Auth-User",
            "x-auth-user",
            "X-AUTH-USER",
            "X_Auth_User",
            "X-Auth_User",
            "X_Auth-User",
            "X.Auth.User",
            "x_auth_user",
            "X~Auth~User",
            "X*Auth-User",
            "X-Auth.User",
        ] {
            let lines = [
                format!("{name}: root\r\n"),
                format!("{name}: root\r\nConnection: {name}\r\n"),
                format!("{name}: x\r\n{name}: root\r\n"),
                format!("X-Auth-User: x\r\n{name}: root\r\n"),
            ];
            for lines in lines {
                let request = received(&origin, proxy.address, &lines).await;
                assert!(!request.contains("root"), "{name}: {request}");
            }
            let refused = get(proxy.address, "/key", &format!("{name}: root\r\n")).await;
            assert_eq!(refused.status, 401);
        }
    })
    .await;
}

#[tokio::test]
async fn a_trusted_proxy_is_read_from_the_right_whatever_its_client_wrote() {
    within(async {
        let origin = echoing().await;
        let trusted = "trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]";
        let proxy = setup(&origin, "").server(trusted).start();
        let long = "6.6.6.6, ".repeat(1_100);
        let junk = "x".repeat(10_000);
        let cases = [
            ("192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1, 10.1.2.3", "192.0.2.1"),
            (",,, 192.0.2.1 ,,", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:1", "fe80::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            // Past what cannot be read nothing is believed.
            ("6.6.6.6, unknown", "127.0.0.1"),
            ("6.6.6.6, 999.0.0.1", "127.0.0.1"),
            ("6.6.6.6, 192.0.2.1:99999", "127.0.0.1"),
            ("6.6.6.6, [::1", "127.0.0.1"),
            ("6.6.6.6, ::1]", "127.0.0.1"),
            ("6.6.6.6, [::1]x", "127.0.0.1"),
            ("6.6.6.6, 0x7f000001", "127.0.0.1"),
            ("6.6.6.6, 2130706433", "127.0.0.1"),
            ("6.6.6.6, 192.0.2.01", "127.0.0.1"),
            ("6.6.6.6, \u{ff11}.2.3.4", "127.0.0.1"),
            ("6.6.6.6, <script>", "127.0.0.1"),
            ("6.6.6.6, '; DROP TABLE x;--", "127.0.0.1"),
            (&junk, "127.0.0.1"),
            (&format!("{long}192.0.2.1"), "192.0.2.1"),
            (&format!("{long}unknown"), "127.0.0.1"),
        ];
        for (value, client) in cases {
            let shown = &value[..value.len().min(80)];
            let request =
                received(&origin, proxy.address, &format!("X-Forwarded-For: {value}\r\n")).await;
            assert_eq!(fields(&request, "x-real-ip"), [client], "{shown}");
            let list = fields(&request, "x-forwarded-for");
            assert!(matches!(list[..], [one] if one.ends_with(", 127.0.0.1")), "{shown}: {list:?}");
        }
        let forwarded = [
            ("for=192.0.2.1;proto=https", "192.0.2.1"),
            ("for=6.6.6.6, For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("host=\"x;for=6.6.6.6\";for=192.0.2.1", "192.0.2.1"),
            ("for=192.0.2.1;host=\"x,for=6.6.6.6\"", "127.0.0.1"),
            ("for=6.6.6.6;for=192.0.2.1", "127.0.0.1"),
            ("for=\"6.6.6.6", "127.0.0.1"),
            ("for=6.6.6.6, for=_hidden", "127.0.0.1"),
            ("for=6.6.6.6, for=unknown", "127.0.0.1"),
            ("for=6.6.6.6, by=10.0.0.1", "127.0.0.1"),
        ];
        for (value, client) in forwarded {
            let request =
                received(&origin, proxy.address, &format!("Forwarded: {value}\r\n")).await;
            assert_eq!(fields(&request, "x-real-ip"), [client], "{value}");
        }
    })
    .await;
}

/// What a client would put into the log, if it could.
const LINES: [&str; 8] = [
    "/a%0d%0a2026-01-01T00:00:00.000Z%20forged",
    "/a%0aforged",
    "/a?x=%0d%0aforged",
    "/a\"%20forged=\"1",
    "/a?\"},{\"forged\":\"1",
    "/a?x='\"`$(forged)",
    "/a%1b[2Jforged",
    "/a?%e2%80%ae%e2%80%a8forged",
];

#[tokio::test]
async fn no_client_forges_a_line_of_the_log() {
    within(async {
        for json in [false, true] {
            let origin = echoing().await;
            let mut setup = setup(&origin, "");
            if json {
                setup = setup.json_log();
            }
            let proxy = setup.start();
            for path in LINES {
                get(proxy.address, path, "").await;
            }
            let agents: [&[u8]; 6] = [
                b"\" forged=\"1",
                b"\\\" forged=1",
                b"\xff\xfe\x80 forged",
                b"\xc2\x9b2J forged",
                b"\xe2\x80\xae\xe2\x80\xa8 forged",
                b"tab\there forged",
            ];
            for agent in agents {
                for name in ["User-Agent", "Referer"] {
                    let mut request =
                        format!("GET / HTTP/1.1\r\nHost: a.test\r\n{name}: ").into_bytes();
                    request.extend_from_slice(agent);
                    request.extend_from_slice(b"\r\n\r\n");
                    assert_eq!(ask(proxy.address, request).await.status, 200);
                }
            }
            for host in ["a\" forged=\"1", "a\\", "a\u{9b}"] {
                let mut client = Raw::connect(proxy.address).await;
                client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
                client.answer().await;
            }
            let count = LINES.len() + agents.len() * 2 + 3;
            let lines = proxy.log_lines(count).await;
            assert_eq!(lines.len(), count, "{lines:#?}");
            for line in lines {
                let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}');
                // A tab is a control character, too.
                assert!(!line.contains(odd), "{}", line.escape_debug());
                if json {
                    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
                    assert!(parsed.get("forged").is_none(), "{line}");
                } else {
                    let quoted = line.replace("\\\\", "").replace("\\\"", "");
                    let outside: String = quoted.split('"').step_by(2).collect();
                    assert!(!outside.contains(" forged"), "{line}");
                }
            }
        }
    })
    .await;
}
