//! Which route a request takes, and routes that answer by themselves.

use crate::support::client::{ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::within;

async fn status_and_body(proxy: std::net::SocketAddr, host: &str, path: &str) -> (u16, String) {
    let answer = ask(proxy, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn the_most_specific_route_wins_wherever_it_stands() {
    within(async {
        let route = |name: &str, matches: &str| {
            format!("[[route]]\nname = \"{name}\"\n{matches}\nrespond = {{ body = \"{name}\" }}\n")
        };
        let proxy = Setup::new(
            route("any", "")
                + &route("host", "hosts = [\"a.test\"]")
                + &route("api", "hosts = [\"a.test\"]\npath = \"/api\"")
                + &route("v2", "hosts = [\"a.test\"]\npath = \"/api/v2\"")
                + &route("exact", "hosts = [\"a.test\"]\npath_exact = \"/api/v2/x\"")
                + &route("wild", "hosts = [\"*.a.test\"]"),
        )
        .start();
        for (host, path, expected) in [
            ("other.test", "/api", "any"),
            ("a.test", "/", "host"),
            ("A.TEST:8080", "/apix", "host"),
            ("a.test", "/api?x", "api"),
            ("a.test", "/api/v2/y", "v2"),
            ("a.test", "/api/v2/x", "exact"),
            ("b.a.test", "/api", "wild"),
            ("c.b.a.test", "/", "wild"),
        ] {
            let (status, body) = status_and_body(proxy.address, host, path).await;
            assert_eq!((status, body.as_str()), (200, expected), "{host}{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn prefixes_are_stripped_and_rewritten() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"a\"\npath = \"/a\"\nupstream = \"origin\"\nstrip_prefix = true\n\
             [[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"origin\"\n\
             rewrite_prefix = \"/v1\"\n"
        ))
        .start();
        for (path, expected) in
            [("/a/x?y", "/x?y"), ("/a", "/"), ("/b/x%20y", "/v1/x%20y"), ("/b?q=1", "/v1/?q=1")]
        {
            get(proxy.address, path, "").await;
            let request = origin.requests().pop().unwrap();
            assert!(request.starts_with(&format!("GET {expected} HTTP/1.1\r\n")), "{request}");
        }
        assert_eq!(get(proxy.address, "/c", "").await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn redirects_lead_where_they_should() {
    within(async {
        let proxy = Setup::new(
            "[[route]]\nname = \"https\"\nredirect = { to = \"https\" }\n\
             [[route]]\nname = \"old\"\npath = \"/old\"\n\
             redirect = { to = \"https://b.test/new\", status = 301 }\n\
             [[route]]\nname = \"moved\"\npath = \"/moved\"\n\
             redirect = { to = \"https://b.test\", keep_path = true, status = 307 }\n",
        )
        .start();
        for (path, status, location) in [
            ("/x?y=z", 308, "https://a.test/x?y=z"),
            ("/old/page", 301, "https://b.test/new"),
            ("/moved/page?y", 307, "https://b.test/moved/page?y"),
        ] {
            let answer = get(proxy.address, path, "").await;
            assert_eq!((answer.status, answer.field("location")), (status, Some(location)));
        }
    })
    .await;
}

#[tokio::test]
async fn a_fixed_response_is_what_it_says() {
    within(async {
        let proxy = Setup::new(
            "[[route]]\nname = \"teapot\"\n\
             respond = { status = 418, body = \"{}\", content_type = \"application/json\" }\n",
        )
        .start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!((answer.status, answer.text().as_str()), (418, "{}"));
        assert_eq!(answer.field("content-type"), Some("application/json"));
        assert_eq!(answer.field("server"), Some("tollgate"));
    })
    .await;
}

#[tokio::test]
async fn no_spelling_of_a_path_leads_past_its_route() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
             [[route]]\nname = \"admin\"\npath = \"/admin\"\nupstream = \"origin\"\n\
             [route.api_key]\nkeys = [{{ name = \"ops\", key = \"sha256:{}\" }}]\n",
            "0".repeat(64)
        ))
        .start();
        for path in [
            "/%61dmin",
            "//admin",
            "/%2Fadmin",
            "/admin;x=1",
            "/;y/admin/z",
            "/admin%2fz",
            "/%2e/x",
        ] {
            let answer = get(proxy.address, path, "").await;
            assert_eq!(answer.status, 400, "{path}");
        }
        assert_eq!(get(proxy.address, "/admin/%7Ex//y", "").await.status, 401);
        assert!(origin.requests().is_empty());
        for path in ["/a//b", "/group%2Fproject", "/%7Ejoe;v=1", "/https://b.test/admin"] {
            assert_eq!(get(proxy.address, path, "").await.status, 200, "{path}");
            let request = origin.requests().pop().unwrap();
            assert!(request.starts_with(&format!("GET {path} ")), "as it was sent: {request}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_listener_has_the_routes_that_name_it_and_those_that_name_none() {
    within(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inner = listener.local_addr().unwrap();
        drop(listener);
        let route = |name: &str, matches: &str| {
            format!("[[route]]\nname = \"{name}\"\n{matches}\nrespond = {{ body = \"{name}\" }}\n")
        };
        let setup = Setup::new(
            format!("[[listener]]\nname = \"inner\"\naddress = \"{inner}\"\n")
                + &route("both", "path = \"/both\"")
                + &route("out", "listeners = [\"public\"]")
                + &route("in", "listeners = [\"inner\"]")
                + &route("deep", "listeners = [\"inner\"]\npath = \"/deep\""),
        );
        let proxy = setup.start();
        for (path, public, within) in
            [("/both", "both", "both"), ("/", "out", "in"), ("/deep", "out", "deep")]
        {
            assert_eq!(status_and_body(proxy.address, "a.test", path).await.1, public);
            assert_eq!(status_and_body(inner, "a.test", path).await.1, within);
        }
    })
    .await;
}
