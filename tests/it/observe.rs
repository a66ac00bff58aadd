//! What can be seen from outside.

use crate::support::client::{ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn every_exchange_is_one_line_that_tells_its_story() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).json_log().start();
        let agent = "User-Agent: evil\"\x1b[31m\r\n";
        let post = format!(
            "POST /x?token=secret HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n{agent}\r\nabc"
        );
        let answer = ask(proxy.address, post).await;
        // Control characters in a field are refused; what is left is plain.
        assert_eq!(answer.status, 400);
        let refused: serde_json::Value =
            serde_json::from_str(&proxy.log_lines(1).await.remove(0)).unwrap();
        assert_eq!((&refused["method"], &refused["status"]), (&"POST".into(), &400.into()));
        assert_eq!(
            (&refused["rejected"], &refused["client"]),
            (&"head_malformed".into(), &"127.0.0.1".into())
        );
        let post = "POST /x?token=secret HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\
                    User-Agent: evil\"\\\r\n\r\nabc";
        let answer = ask(proxy.address, post).await;
        let line = proxy.log_lines(2).await.remove(1);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["method"], "POST");
        assert_eq!(line["target"], "/x?token=***");
        assert_eq!(line["status"], 200);
        assert_eq!(line["client"], "127.0.0.1");
        assert_eq!(line["listener"], "public");
        assert_eq!(line["route"], "all");
        assert_eq!(line["upstream"], "origin");
        assert_eq!(line["origin"], origin.address.to_string());
        assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&3.into(), &2.into()));
        assert_eq!(line["attempts"], 1);
        assert_eq!(line["complete"], true);
        assert_eq!(line["user_agent"], "evil\"\\");
        assert_eq!(line["request_id"], answer.field("x-request-id").unwrap());
        for timing in ["duration_ms", "policy_ms", "connect_ms", "response_head_ms"] {
            assert!(line[timing].is_f64(), "{timing} in {line}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_request_id_is_ours_unless_a_trusted_proxy_gave_it() {
    within(async {
        let origin = Origin::answering(OK).await;
        let id = "X-Request-Id: chosen\r\n";
        let stranger = Setup::forwarding_to(&origin).start();
        let answer = get(stranger.address, "/", id).await;
        assert_ne!(answer.field("x-request-id"), Some("chosen"));
        let trusting =
            Setup::forwarding_to(&origin).server("trusted_proxies = [\"127.0.0.1\"]").start();
        let answer = get(trusting.address, "/", id).await;
        assert_eq!(answer.field("x-request-id"), Some("chosen"));
    })
    .await;
}

#[tokio::test]
async fn the_admin_listener_counts_and_answers() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        get(proxy.address, "/", "").await;
        get(proxy.address, "/", "").await;
        proxy.log_lines(2).await;
        let admin = |path: &str| {
            ask(proxy.admin, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        };
        assert_eq!(admin("/livez").await.text(), "ok\n");
        assert_eq!(admin("/readyz").await.text(), "ready\n");
        let metrics = admin("/metrics").await.text();
        for line in [
            "tollgate_requests_total{route=\"all\",status=\"2xx\"} 2",
            "tollgate_connections_accepted_total{listener=\"public\"} 2",
        ] {
            assert!(metrics.lines().any(|l| l == line), "no {line} in\n{metrics}");
        }
        let dial = format!(
            "tollgate_origin_connects_total{{upstream=\"origin\",origin=\"{}\",result=\"ok\"}} 1",
            origin.address
        );
        assert!(metrics.lines().any(|l| l == dial), "no {dial} in\n{metrics}");
        let stranger = ask(proxy.admin, "GET /metrics HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
        assert_eq!(stranger.status, 421);
    })
    .await;
}
