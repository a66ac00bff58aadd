//! `HAProxy`.

use std::fmt::Write as _;
use std::fs;

use super::{Features, KEY, Scale, Told};
use crate::Result;

impl Told<'_> {
    /// Its configuration.
    pub(super) fn haproxy(&self) -> Result<String> {
        let Self { plain, tls, sink, .. } = self;
        let workers = self.setup.workers;
        let certificate = self.certificate("both.pem");
        let (global, ring, policy) = match self.setup.features {
            Features::Bare | Features::Cached => (String::new(), String::new(), String::new()),
            // Lines go into a ring in memory, and from there in batches to a server.
            Features::Full => (
                "  log ring@lines local0\n".to_owned(),
                format!(
                    "ring lines\n  format rfc5424\n  maxlen 1200\n  size 4194304\n\
                     \x20 timeout connect 5s\n  timeout server 10s\n\
                     \x20 server sink {sink} log-proto octet-count\n"
                ),
                format!(
                    "  log global\n  option httplog\n\
                     \x20 stick-table type ip size 1m expire 60s store http_req_rate(1s)\n\
                     \x20 http-request track-sc0 src\n\
                     \x20 http-request deny deny_status 429 if \
                     {{ sc_http_req_rate(0) gt 1000000 }}\n\
                     \x20 http-request deny deny_status 401 unless \
                     {{ req.hdr(x-api-key) -m str {KEY} }}\n\
                     \x20 http-request del-header x-api-key\n\
                     \x20 http-request set-header x-gateway bench\n\
                     \x20 http-response del-header x-powered-by\n\
                     \x20 http-response set-header x-frame-options DENY\n"
                ),
            ),
        };
        let (choice, upstreams) = (self.haproxy_choice()?, self.haproxy_upstreams());
        Ok(format!(
            "global\n  nbthread {workers}\n  maxconn 15000\n  no strict-limits\n{global}\
             \x20 tune.ssl.default-dh-param 2048\n\
             defaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n\
             \x20 timeout client 75s\n  timeout server 60s\n{ring}\
             frontend all\n  bind {plain} backlog 4096\n\
             \x20 bind {tls} ssl crt {certificate} alpn h2,http/1.1 backlog 4096\n\
             {policy}\x20 option forwardfor\n\
             \x20 http-request set-header x-forwarded-proto %[ssl_fc,iif(https,http)]\n\
             {choice}{upstreams}"
        ))
    }

    /// How a request finds its upstream: many routes stand in a map, which is a
    /// tree of prefixes.
    fn haproxy_choice(&self) -> Result<String> {
        if self.setup.scale == Scale::One {
            return Ok("  default_backend origin-0\n".to_owned());
        }
        let mut map = String::new();
        for (prefix, upstream) in self.routes() {
            let _ = writeln!(map, "{prefix} origin-{upstream}");
        }
        let path = self.file("routes.map");
        fs::write(&path, map)?;
        Ok(format!("  use_backend %[path,map_beg({path})]\n"))
    }

    fn haproxy_upstreams(&self) -> String {
        let mut text = String::new();
        for (number, origins) in self.upstreams().iter().enumerate() {
            let _ = writeln!(text, "backend origin-{number}");
            for (index, origin) in origins.iter().enumerate() {
                let _ = writeln!(text, "  server s{index} {origin} pool-max-conn 256");
            }
        }
        text
    }
}
