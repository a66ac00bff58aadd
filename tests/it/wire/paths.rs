//! Paths that two servers could read in two ways: whatever reaches the origin by
//! an open route, the origin does not take for a path behind a guarded one.

use percent_encoding::percent_decode;

use crate::support::attack::{Expect, Target, case, echoing};
use crate::support::client::Raw;
use crate::support::proxy::Setup;
use crate::support::within;

const NOBODYS: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// What a careless origin makes of a path: escapes taken out so many times, then
/// backslashes for slashes, parameters and what follows a NUL, `?` or `#` left
/// aside, slashes merged and dot segments followed, spaces and dots trimmed.
fn read_by_origin(path: &str, times: usize, careless: bool) -> String {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..times {
        bytes = percent_decode(&bytes).collect();
    }
    let mut text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    if careless {
        let end = text.find(['\0', '?', '#', '\r', '\n']).unwrap_or(text.len());
        text.truncate(end);
    }
    let mut names: Vec<String> = Vec::new();
    for segment in text.split('/') {
        let name = if careless { segment.split(';').next().unwrap() } else { segment };
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name if careless => names.push(name.trim_end_matches([' ', '.', '\t']).to_owned()),
            name => names.push(name.to_owned()),
        }
    }
    format!("/{}", names.join("/"))
}

/// Ways to write `/admin`, or to get there.
fn spellings() -> Vec<String> {
    let before = [
        "/",
        "//",
        "///",
        "/./",
        "/x/../",
        "/x//../",
        "/%2e/",
        "/x/%2e%2e/",
        "/x/.%2e/",
        "/x/%2E./",
        "/x/..;/",
        "/x/..;y=z/",
        "/x/..%3b/",
        "/;/",
        "/;x/",
        "/x/..%2f",
        "/x%2f..%2f",
        "/%2f",
        "/%2F/",
        "/\\",
        "\\",
        "/%5c",
        "/x/..\\",
        "/x/..%5c",
        "/%252f",
        "/x/%252e%252e/",
        "/x/..%252f",
        "/x%252f..%252f",
        "/%255c",
        "/x/%c0%ae%c0%ae/",
        "/x/%c0%2e%c0%2e/",
        "/x/..%c0%af",
        "/x/%e0%80%ae%e0%80%ae/",
        "/%c0%af",
        "/x/..%00/",
        "/x/.%00./",
        "/x/%u002e%u002e/",
        "/x/..%01/",
        "/x/%2e%2e;/",
        "/x/%252e%252e;/",
        "/x/..%25%32%66",
        "/x/../../",
        "/../",
        "/..",
        "/.%00/",
        "/x/%%32%65%%32%65/",
        "/%20/",
        "/x/.. /",
        "/x/..%20/",
        "/x/...//../../",
    ];
    let names = [
        "admin",
        "%61dmin",
        "a%64min",
        "%61%64%6d%69%6e",
        "%2561dmin",
        "%252561dmin",
        "admi%6E",
        "admi%6e",
        "%c1%a1dmin",
        "admin%00",
        "admin%20",
        "admin%09",
        "admin.",
        "admin%2e",
        "admin;x",
        "admin;",
        "admin%3bx",
        "admin%3f",
        "admin%23",
        "admin%2500",
        "admin%253f",
        "admin%0a",
        "admin%0d%0a",
        "a%64min%253bx",
        "admin%",
        "admin%2",
        "admin%zz",
        "%u0061dmin",
        "%ef%bd%81dmin",
    ];
    let after = ["", "/", "/x", "//x", "/.", "/./x", "%2fx", "/%2e", "?x", "/..;/admin", "%2f"];
    let mut all = Vec::new();
    for before in before {
        for name in names {
            all.extend(after.map(|after| format!("{before}{name}{after}")));
        }
    }
    all
}

#[tokio::test]
async fn no_spelling_of_a_guarded_path_comes_by_an_open_route() {
    within(async {
        let origin = echoing().await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"open\"\nupstream = \"origin\"\n\
             [[route]]\nname = \"admin\"\npath = \"/admin\"\nupstream = \"origin\"\n\
             api_key = {{ keys = [{{ name = \"nobody\", key = \"{NOBODYS}\" }}] }}\n"
        ))
        .start();
        let spellings = spellings();
        let (mut passed, mut refused, mut guarded) = (0, 0, 0);
        let mut client = Raw::connect(proxy.address).await;
        for path in &spellings {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            client.try_send(request).await;
            let answer = client.answer().await;
            match answer.status {
                200 => passed += 1,
                400 => refused += 1,
                401 => guarded += 1,
                status => panic!("{path}: {status}"),
            }
            if answer.field("connection") == Some("close") {
                client = Raw::connect(proxy.address).await;
            }
        }
        assert_eq!(passed + refused + guarded, spellings.len());
        assert!(guarded > 0 && refused > 5_000, "{passed} {refused} {guarded}");
        for request in origin.requests() {
            let target = request.split(' ').nth(1).unwrap();
            let path = target.split('?').next().unwrap();
            for (times, careless) in [(0, false), (1, false), (1, true), (2, false), (2, true)] {
                let read = read_by_origin(path, times, careless);
                let is_admin = read == "/admin" || read.starts_with("/admin/");
                assert!(!is_admin, "{path} is {read} when its escapes are taken out {times} times");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_path_that_nobody_sends_is_refused_on_any_route() {
    within(async {
        let paths = [
            "/a/../b",
            "/a/..",
            "/a/.",
            "/./a",
            "/..",
            "/.",
            "/a/%2e%2e/b",
            "/a/%2E%2e",
            "/a/.%2e/b",
            "/..;/a",
            "/.;x/a",
            "/..%3b/a",
            "/a%2f..%2fb",
            "/a/..%2Fb",
            "/a\\b",
            "/a%5cb",
            "/a%5Cb",
            "/a%00",
            "/%00",
            "/a%0a",
            "/a%0d%0ab",
            "/a%7f",
            "/a%1b[31m",
            "/a%c0%afb",
            "/%c0%ae%c0%ae/",
            "/%c1%9c",
            "/%c0%2f",
            "/%e0%80%af",
            "/%f0%80%80%af",
            "/%f8%80%80%80%af",
            "/%",
            "/%2",
            "/%zz",
            "/%2x",
            "/%u002e",
            "/%%32%65",
        ];
        let refused = |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            case(path, request, Expect::Declined(400))
        };
        let paths: Vec<&str> =
            paths.into_iter().filter(|path| !path.contains(['\\', '['])).collect();
        Target::new().await.check(paths.into_iter().map(refused)).await;
    })
    .await;
}

#[tokio::test]
async fn a_target_is_visible_ascii() {
    within(async {
        let paths =
            ["/\u{e9}", "/?\u{e9}", "/caf\u{e9}/x", "/\u{2024}\u{2024}/admin", "/\u{ff0f}x"];
        let each = |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            case(path, request, Expect::Refused(&[400]))
        };
        let target = Target::new().await;
        target.check(paths.map(each)).await;
        let latin_1 = b"GET /caf\xe9 HTTP/1.1\r\nHost: a.test\r\n\r\n";
        target.check([case("latin-1", latin_1, Expect::Refused(&[400]))]).await;
    })
    .await;
}

#[tokio::test]
async fn what_has_one_reading_is_forwarded_as_it_was_sent() {
    within(async {
        let paths = [
            "/",
            "/a//b",
            "//",
            "/a%2fb",
            "/.well-known/x",
            "/a...b/..c",
            "/...",
            "/a;b=c/d",
            "/%7Ejoe",
            "/caf%C3%A9",
            "/caf%E9",
            "/%e0%a4%85",
            "/%252e%252e/x",
            "/a?b?c",
            "/?",
            "/a?x=../../y",
            "/a?x=%zz&y=100%",
            "/a?x=%00%0d%0a",
            "/a?x=\\",
            "/@a:b",
            "/a%20b",
            "/a+b",
            "/!$&'()*,=~",
            "/http://b.test/x",
            "/a%3fb",
            "/a%23b",
        ];
        let target = Target::new().await;
        for path in paths.into_iter().filter(|path| !path.contains('\\')) {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let outcome = target.attack(request).await;
            assert_eq!(outcome.statuses(), [200], "{path}: {outcome}");
            let start = format!("GET {path} HTTP/1.1\r\n");
            assert!(outcome.origin_saw.starts_with(&start), "{path}: {outcome}");
        }
    })
    .await;
}
