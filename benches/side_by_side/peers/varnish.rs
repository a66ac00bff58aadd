//! Varnish, and the `HAProxy` in front of it that takes TLS off.

use super::Told;

/// What it logs of a request that is a hit.
const LOGGED: [&str; 22] = [
    "Begin",
    "End",
    "Hit",
    "Link",
    "ReqAcct",
    "ReqHeader",
    "ReqMethod",
    "ReqProtocol",
    "ReqStart",
    "ReqURL",
    "ReqUnset",
    "RespHeader",
    "RespProtocol",
    "RespReason",
    "RespStatus",
    "RespUnset",
    "SessClose",
    "SessOpen",
    "Timestamp",
    "VCL_call",
    "VCL_return",
    "VCL_use",
];

impl Told<'_> {
    /// The configuration of the one in front, and the command that starts both in one
    /// group of processes.
    pub(super) fn varnish(&self, path: &str) -> (String, Vec<String>) {
        let Self { plain, tls, .. } = self;
        let (workers, certificate) = (self.setup.workers, self.certificate("both.pem"));
        let (folder, origin) = (self.file_in_memory("varnish"), self.world.origin);
        let front = format!(
            "global\n  nbthread {workers}\n  maxconn 15000\n  no strict-limits\n\
             \x20 tune.ssl.default-dh-param 2048\n\
             defaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n\
             \x20 timeout client 75s\n  timeout server 60s\n\
             frontend all\n\
             \x20 bind {tls} ssl crt {certificate} alpn h2,http/1.1 backlog 4096\n\
             \x20 default_backend cache\n\
             backend cache\n  server varnish {plain} pool-max-conn 256\n"
        );
        // No jail: it would run as somebody who may not read the folder. One pool of
        // threads for each core, and threads for all connections from the start.
        let settings = [
            format!("thread_pools={workers}"),
            "thread_pool_min=200".to_owned(),
            "listen_depth=4096".to_owned(),
            // What the others do not write either.
            format!("vsl_mask=-{}", LOGGED.join(",-")),
        ];
        let settings: Vec<String> = settings.iter().map(|text| format!("-p {text}")).collect();
        let script = format!(
            "haproxy -f {path} & exec varnishd -F -j none -n {folder} -a {plain} -b {origin} \
             -s malloc,256m {}",
            settings.join(" ")
        );
        (front, ["sh", "-c", &script].map(str::to_owned).to_vec())
    }
}
