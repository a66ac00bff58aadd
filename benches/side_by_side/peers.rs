//! The proxies, each told the same.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::process::{PROXY_CORE, Process, free_address, is_installed};

/// The API key that the full set of features asks for.
pub(crate) const KEY: &str = "bench-key-0123456789";

/// Who is measured, in the order in which a round goes.
pub(crate) const NAMES: [&str; 4] = ["nginx", "haproxy", "tollgate", "pingora"];

/// What a proxy is told to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Features {
    /// Forward, and nothing else: no access log either.
    Bare,
    /// Rate limit by address, API key, header rewriting, access log to a file.
    Full,
}

/// A proxy that runs.
pub(crate) struct Peer {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) process: Process,
}

/// What all proxies of a scenario share.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) origin: SocketAddr,
    _origin: Process,
}

impl World {
    /// Starts the origin, and makes a certificate.
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::TempDir::new()?;
        let made = rcgen::generate_simple_self_signed(["bench.test".to_owned()])?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(dir.path().join("cert.pem"), &certificate)?;
        fs::write(dir.path().join("key.pem"), &key)?;
        fs::write(dir.path().join("both.pem"), certificate + &key)?;
        let origin = free_address()?;
        let program = std::env::current_exe()?.display().to_string();
        let command = [program, "--origin".to_owned(), origin.to_string()];
        let log = dir.path().join("origin.log");
        let mut process = Process::start(crate::process::LOAD_CORE, &command, &log)?;
        process.listening(origin, &log)?;
        Ok(Self { dir, origin, _origin: process })
    }

    /// The certificate that every proxy shows.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// Starts a proxy on these many cores; `None` if it is not to be had here.
    pub(crate) fn start(
        &self,
        name: &'static str,
        features: Features,
        workers: usize,
    ) -> Result<Option<Peer>> {
        let dir = self.dir.path().join(format!("{name}-{features:?}-{workers}"));
        fs::create_dir_all(&dir)?;
        let (plain, tls) = (free_address()?, free_address()?);
        let told = Told { world: self, dir: &dir, plain, tls, features, workers };
        let Some(command) = told.command(name)? else { return Ok(None) };
        let log = dir.join("said.log");
        let cores = if workers > 1 { "0,1" } else { PROXY_CORE };
        let mut process = Process::start(cores, &command, &log)?;
        process.listening(plain, &log)?;
        Ok(Some(Peer { plain, tls, process }))
    }
}

/// Why a proxy is not to be had, and how it would be.
pub(crate) fn missing(name: &str) -> Option<String> {
    match name {
        "nginx" | "haproxy" if !is_installed(name) => {
            Some(format!("{name} is not installed: apt-get install {name}"))
        }
        "pingora" if !pingora().is_file() => {
            Some("pingora is left out: PINGORA_PEER names no program".to_owned())
        }
        _ => None,
    }
}

/// A proxy built on Pingora that takes the arguments below.
fn pingora() -> PathBuf {
    std::env::var_os("PINGORA_PEER").map(PathBuf::from).unwrap_or_default()
}

/// What one proxy is told.
struct Told<'a> {
    world: &'a World,
    dir: &'a Path,
    plain: SocketAddr,
    tls: SocketAddr,
    features: Features,
    workers: usize,
}

impl Told<'_> {
    fn command(&self, name: &str) -> Result<Option<Vec<String>>> {
        if missing(name).is_some() {
            return Ok(None);
        }
        let config = self.dir.join("config");
        let path = config.display().to_string();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (text, command): (String, Vec<String>) = match name {
            "nginx" => (self.nginx(), words(&["nginx", "-c", &path, "-e", "stderr"])),
            "haproxy" => (self.haproxy(), words(&["haproxy", "-f", &path])),
            "tollgate" => {
                let program = env!("CARGO_BIN_EXE_tollgate");
                (self.tollgate(), words(&[program, "run", "--config", &path]))
            }
            "pingora" => (String::new(), self.pingora()),
            other => return Err(format!("no proxy `{other}`").into()),
        };
        fs::write(self.dir.join("key"), KEY)?;
        fs::write(config, text)?;
        Ok(Some(command))
    }

    fn certificate(&self, file: &str) -> String {
        self.world.dir.path().join(file).display().to_string()
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn tollgate(&self) -> String {
        let Self { plain, tls, workers, world: World { origin, .. }, .. } = self;
        let (certificate, key) = (self.certificate("cert.pem"), self.certificate("key.pem"));
        let log = match self.features {
            Features::Bare => "off".to_owned(),
            Features::Full => self.file("access.log"),
        };
        let layers = match self.features {
            Features::Bare => String::new(),
            Features::Full => format!(
                "[route.rate_limit]\nrate = 1000000\n\
                 [route.api_key]\nkeys = [{{ name = \"bench\", key = \"file:{}\" }}]\n\
                 [route.headers.request]\nset = {{ x-gateway = \"bench\" }}\n\
                 [route.headers.response]\nset = {{ x-frame-options = \"DENY\" }}\n",
                self.file("key"),
            ),
        };
        format!(
            "[server]\nworkers = {workers}\nmax_connections_per_client = 100000\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [log]\nlevel = \"warn\"\n\
             [access_log]\noutput = \"{log}\"\n\
             [[listener]]\nname = \"plain\"\naddress = \"{plain}\"\n\
             [[listener]]\nname = \"tls\"\naddress = \"{tls}\"\n\
             [listener.tls]\n\
             certificates = [{{ certificate = \"{certificate}\", key = \"{key}\" }}]\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"http://{origin}\"]\nmax_idle = 256\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n{layers}"
        )
    }

    fn nginx(&self) -> String {
        let Self { plain, tls, workers, world: World { origin, .. }, .. } = self;
        let (certificate, key) = (self.certificate("cert.pem"), self.certificate("key.pem"));
        let (http, location) = match self.features {
            Features::Bare => ("access_log off;".to_owned(), ""),
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
             proxy_request_buffering off; server_tokens off;\n\
             upstream origin {{ server {origin}; keepalive 256; \
             keepalive_requests 1000000000; }}\n\
             server {{ listen {plain} backlog=4096; listen {tls} ssl http2 backlog=4096;\n\
             ssl_certificate {certificate}; ssl_certificate_key {key};\n\
             ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;\n\
             location / {{ proxy_pass http://origin; proxy_http_version 1.1;\n\
             proxy_set_header Connection ''; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
             proxy_set_header X-Forwarded-Proto $scheme;\n{location} }} }} }}\n"
        )
    }

    fn haproxy(&self) -> String {
        let Self { plain, tls, workers, world: World { origin, .. }, .. } = self;
        let certificate = self.certificate("both.pem");
        let (log, policy) = match self.features {
            Features::Bare => (String::new(), String::new()),
            Features::Full => (
                "  log global\n  option httplog\n".to_owned(),
                format!(
                    "  stick-table type ip size 1m expire 60s store http_req_rate(1s)\n\
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
        format!(
            "global\n  nbthread {workers}\n  maxconn 15000\n  no strict-limits\n  log stdout format raw local0\n\
             \x20 tune.ssl.default-dh-param 2048\n\
             defaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n\
             \x20 timeout client 75s\n  timeout server 60s\n\
             frontend all\n  bind {plain} backlog 4096\n\
             \x20 bind {tls} ssl crt {certificate} alpn h2,http/1.1 backlog 4096\n\
             {log}{policy}\x20 option forwardfor\n\
             \x20 http-request set-header x-forwarded-proto %[ssl_fc,iif(https,http)]\n\
             \x20 default_backend origin\n\
             backend origin\n  server a {origin} pool-max-conn 256\n"
        )
    }

    fn pingora(&self) -> Vec<String> {
        let features = match self.features {
            Features::Bare => "plain",
            Features::Full => "full",
        };
        let mut command = vec![pingora().display().to_string()];
        let mut add = |name: &str, value: String| command.extend([name.to_owned(), value]);
        add("--listen", self.plain.to_string());
        add("--listen-tls", self.tls.to_string());
        add("--cert", self.certificate("cert.pem"));
        add("--key", self.certificate("key.pem"));
        add("--origin", self.world.origin.to_string());
        add("--threads", self.workers.to_string());
        add("--features", features.to_owned());
        add("--key-value", KEY.to_owned());
        add("--rate", "1000000".to_owned());
        if self.features == Features::Full {
            add("--access-log", self.file("access.log"));
        }
        command
    }
}
