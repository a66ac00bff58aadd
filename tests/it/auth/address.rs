//! Networks that are let in, by the client's derived address.

use super::guarded;
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::within;

const OFFICE: &str = "[[auth]]\nname = \"office\"\n[auth.address]\n\
                      allow = [\"10.0.0.0/8\"]\ndeny = [\"10.9.0.0/16\"]\n";

#[tokio::test]
async fn networks_are_let_in_by_the_address_that_trusted_proxies_tell() {
    within(async {
        let origin = Origin::named("one").await;
        let setup = guarded(&origin, OFFICE, "auth = \"office\"");
        let proxy = setup.server("trusted_proxies = [\"127.0.0.1\"]").start();
        for (client, status) in [
            ("10.1.2.3", 200),
            ("10.9.2.3", 403),
            ("192.0.2.1", 403),
            ("::ffff:10.1.2.3", 200),
            ("10.1.2.3, 192.0.2.1", 403),
        ] {
            let field = format!("X-Forwarded-For: {client}\r\n");
            assert_eq!(get(proxy.address, "/", &field).await.status, status, "{client}");
        }
        let lines = proxy.log_lines(5).await;
        assert!(lines[1].contains("rejected=address_denied"), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn a_stranger_does_not_choose_its_address() {
    within(async {
        let origin = Origin::named("one").await;
        let proxy = guarded(&origin, OFFICE, "auth = \"office\"").start();
        let answer = get(proxy.address, "/", "X-Forwarded-For: 10.1.2.3\r\n").await;
        assert_eq!(answer.status, 403);
        assert!(origin.bytes().is_empty());
    })
    .await;
}
