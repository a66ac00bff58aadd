//! nginx.

use std::fmt::Write as _;

use super::{Features, KEY, Told};
use crate::scenario::Transfer;

impl Told<'_> {
    /// Its configuration.
    pub(super) fn nginx(&self) -> String {
        let Self { plain, tls, .. } = self;
        let workers = self.setup.workers;
        let (certificate, key) = (self.certificate("cert.pem"), self.certificate("key.pem"));
        let (http, policy) = match self.setup.features {
            Features::Bare => ("access_log off;".to_owned(), ""),
            // Files in memory, handles kept open. Small ones are read, which costs it
            // less than `sendfile`; see `nginx_locations`.
            Features::Cached => (
                format!(
                    "access_log off;\n\
                     proxy_cache_path {} levels=1:2 keys_zone=bench:64m inactive=1d \
                     max_size=1g use_temp_path=off;\n\
                     open_file_cache max=10000 inactive=1h; open_file_cache_valid 1h;",
                    self.file_in_memory("nginx")
                ),
                "proxy_cache bench; proxy_cache_lock on;",
            ),
            Features::Full => (
                format!(
                    "limit_req_zone $binary_remote_addr zone=limit:10m rate=1000000r/s;\n\
                     map $http_x_api_key $client {{ default ''; '{KEY}' 'bench'; }}\n\
                     access_log {} combined buffer=64k flush=1s;",
                    self.file("access.log")
                ),
                "limit_req zone=limit burst=1000000 nodelay;\n\
                 if ($client = '') { return 401; }\n\
                 proxy_set_header X-API-Key '';\nproxy_set_header X-Gateway bench;\n\
                 proxy_hide_header X-Powered-By;\nadd_header X-Frame-Options DENY;",
            ),
        };
        let (locations, upstreams) = (self.nginx_locations(), self.nginx_upstreams());
        // A queue of its own for each worker, as Tollgate's have.
        let listen = if workers > 1 { "backlog=4096 reuseport" } else { "backlog=4096" };
        let temporary = self.file("");
        format!(
            "daemon off; worker_processes {workers}; pid {temporary}/pid;\n\
             error_log stderr warn; worker_rlimit_nofile 65536;\n\
             events {{ worker_connections 30000; }}\n\
             http {{\n{http}\n\
             client_body_temp_path {temporary}/body; proxy_temp_path {temporary}/proxy;\n\
             fastcgi_temp_path {temporary}/f; uwsgi_temp_path {temporary}/u;\n\
             scgi_temp_path {temporary}/s;\n\
             keepalive_requests 1000000000; keepalive_timeout 75s; client_max_body_size 0;\n\
             proxy_request_buffering off; server_tokens off; proxy_http_version 1.1;\n\
             {upstreams}\
             server {{ listen {plain} {listen}; listen {tls} ssl http2 {listen};\n\
             ssl_certificate {certificate}; ssl_certificate_key {key};\n\
             ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;\n\
             proxy_set_header Connection ''; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
             proxy_set_header X-Forwarded-Proto $scheme;\n\
             {policy}\n{locations} }} }}\n"
        )
    }

    fn nginx_locations(&self) -> String {
        let mut locations = String::new();
        for (prefix, upstream) in self.routes() {
            let _ =
                writeln!(locations, "location {prefix} {{ proxy_pass http://origin-{upstream}; }}");
        }
        if self.setup.features == Features::Cached {
            // Without `tcp_nopush`, which on loopback holds the end of each back.
            let _ = writeln!(
                locations,
                "location {} {{ sendfile on; proxy_pass http://origin-0; }}",
                Transfer::LargeHit.path()
            );
        }
        locations
    }

    fn nginx_upstreams(&self) -> String {
        let mut text = String::new();
        for (number, origins) in self.upstreams().iter().enumerate() {
            let servers: Vec<_> =
                origins.iter().map(|origin| format!("server {origin};")).collect();
            let _ = writeln!(
                text,
                "upstream origin-{number} {{ {} keepalive 256; keepalive_requests 1000000000; }}",
                servers.concat()
            );
        }
        text
    }
}
