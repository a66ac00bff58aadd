//! The proxy that one would otherwise have written with Pingora: round robin
//! over origins that answer TCP probes, a token bucket for each client address,
//! an API key, clean header fields, an access log, TLS with HTTP/2.
//!
//! ```console
//! $ cargo build --release --manifest-path benches/peers/pingora/Cargo.toml
//! ```
//!
//! It is measured beside Tollgate by `cargo bench --bench side_by_side`, which
//! passes the arguments below.

mod gateway;
mod log;
mod tokens;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use pingora::lb::LoadBalancer;
use pingora::lb::health_check::TcpHealthCheck;
use pingora::lb::selection::RoundRobin;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::http_proxy_service;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::background::background_service;

use crate::gateway::{Gateway, Policies};
use crate::log::AccessLog;
use crate::tokens::TokenBuckets;

/// As in Tollgate's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    /// Where clients connect without TLS.
    #[arg(long)]
    listen: String,
    /// Where clients connect with TLS.
    #[arg(long)]
    listen_tls: String,
    /// The certificate chain, PEM.
    #[arg(long)]
    cert: String,
    /// Its private key, PEM.
    #[arg(long)]
    key: String,
    /// An origin; may be given several times.
    #[arg(long, required = true)]
    origin: Vec<String>,
    /// Threads that serve.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Which policies are on.
    #[arg(long, value_enum)]
    features: Features,
    /// The API key that is asked for.
    #[arg(long, default_value = "")]
    key_value: String,
    /// Requests a second that a client address may make; as many at once.
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Where the access log is written; none without it.
    #[arg(long)]
    access_log: Option<PathBuf>,
}

#[derive(Clone, Copy, Eq, PartialEq, ValueEnum)]
enum Features {
    /// Forward, and nothing else.
    Plain,
    /// Every policy.
    Full,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut server = Server::new_with_opt_and_conf(None, settings(&arguments));
    server.bootstrap();

    let mut origins = LoadBalancer::<RoundRobin>::try_from_iter(&arguments.origin)?;
    origins.set_health_check(TcpHealthCheck::new());
    origins.health_check_frequency = Some(Duration::from_secs(5));
    let probes = background_service("probes", origins);

    let policies = (arguments.features == Features::Full).then(|| Policies {
        tokens: TokenBuckets::new(arguments.rate),
        key: arguments.key_value.clone().into_bytes(),
    });
    let log = arguments.access_log.as_deref().map(AccessLog::open).transpose()?;
    let gateway = Gateway::new(probes.task(), policies, log);

    let mut proxy = http_proxy_service(&server.configuration, gateway);
    proxy.add_tcp(&arguments.listen);
    let mut tls = TlsSettings::intermediate(&arguments.cert, &arguments.key)?;
    tls.enable_h2();
    proxy.add_tls_with_settings(&arguments.listen_tls, None, tls);

    server.add_service(proxy);
    server.add_service(probes);
    server.run_forever()
}

fn settings(arguments: &Arguments) -> ServerConf {
    ServerConf {
        threads: arguments.threads,
        upstream_keepalive_pool_size: 256,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}
