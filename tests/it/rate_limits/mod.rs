//! What bounds a route's requests, against a running proxy.

mod bandwidth;
mod concurrency;
mod costs;
mod identities;
mod keys;
mod local;
mod shared;

use crate::support::client::{ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The digest of `k1`.
const K1: &str = "sha256:6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0";

/// One route to `origin`, with these lines and tables. Who asks is told by a proxy in front.
fn behind(origin: &Origin, route: &str) -> Setup {
    let setup = Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n{route}\n"
    ));
    setup.server("trusted_proxies = [\"127.0.0.1\"]")
}

/// What the admin listener tells of metrics.
async fn metrics(proxy: &Running) -> String {
    ask(proxy.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.text()
}

/// What a client at this address is answered, with these fields.
async fn from(proxy: &Running, client: &str, fields: &str) -> u16 {
    let fields = format!("X-Forwarded-For: {client}\r\n{fields}");
    get(proxy.address, "/", &fields).await.status
}
