//! `tollgate demo` and `tollgate demo-origin`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::log::start_log;
use super::serve::{runtime, stop_signal};
use crate::app::demo::{Made, ensure_certificate, serve_origin};
use crate::app::{Beginning, Bound, Proxy, SetupError};
use crate::config::Settings;

/// The sample configuration, for those who have only the binary.
const SAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml"));

/// The key in the sample configuration, whose digest stands there.
const DEMO_KEY: &str = "secret123";

pub(super) fn run(config: Option<PathBuf>) -> Result<(), Failure> {
    let path = config.unwrap_or_else(|| PathBuf::from("config.toml"));
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned).join("certs");
    let made = ensure_certificate(&folder)
        .map_err(Failure::io("cannot make a certificate for the demo"))?;
    let proxy = if path.exists() {
        Beginning::default().proxy(&path, start_log)?
    } else {
        let settings = crate::config::parse(&path, SAMPLE).map_err(SetupError::from)?;
        let log = start_log(&settings.log);
        Proxy::build(settings).map_err(SetupError::from)?.logging_by(log)
    };
    let origins = demo_origins(proxy.settings());
    let bound = proxy.bind()?;
    runtime()?.block_on(async {
        let stop = stop_signal().map_err(Failure::io("cannot wait for signals"))?;
        let ended = CancellationToken::new();
        let mut tasks = Vec::new();
        for (index, address) in origins.iter().enumerate() {
            let name = format!("origin-{}", index + 1);
            let listener = listen(*address).await?;
            let until = ended.clone().cancelled_owned();
            tasks.push(tokio::spawn(async move { serve_origin(listener, &name, until).await }));
        }
        let certificate = folder.join("demo.crt");
        println!("{}", guide(&bound, &origins, made, &certificate));
        bound.run(stop).await.map_err(Failure::io("cannot start the workers"))?;
        ended.cancel();
        for task in tasks {
            let _ended = task.await;
        }
        Ok(())
    })
}

pub(super) fn origin(address: SocketAddr, name: &str) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let stop = stop_signal().map_err(Failure::io("cannot wait for signals"))?;
        let listener = listen(address).await?;
        println!("{name} listens on {address}");
        serve_origin(listener, name, stop).await.map_err(Failure::io("the origin failed"))
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let what = format!("cannot listen on {address} for a demo origin");
    TcpListener::bind(address).await.map_err(Failure::io(what))
}

/// The origins on this machine that the configuration names: the demo is them.
fn demo_origins(settings: &Settings) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for origin in settings.upstreams.iter().flat_map(|upstream| &upstream.origins) {
        if let Ok(ip) = origin.url.host.parse::<std::net::IpAddr>()
            && ip.is_loopback()
        {
            addresses.push(SocketAddr::new(ip, origin.url.port));
        }
    }
    addresses
}

/// What runs where, and lines to paste.
fn guide(bound: &Bound, origins: &[SocketAddr], made: Made, certificate: &Path) -> String {
    let settings = bound.settings();
    let listener = settings.listeners.first();
    let port = listener
        .and_then(|listener| bound.addresses(&listener.name).first().map(SocketAddr::port))
        .unwrap_or_default();
    let tls = listener.is_some_and(|listener| listener.tls.is_some());
    let certificate = std::path::absolute(certificate).unwrap_or_else(|_| certificate.to_owned());
    let scheme = if tls { "https" } else { "http" };
    let trust = if tls { format!(" --cacert '{}'", certificate.display()) } else { String::new() };
    let url = format!("{scheme}://localhost:{port}");
    let curl = format!("curl -sS{trust}");
    let key = format!("-H 'X-API-Key: {DEMO_KEY}'");
    let stop = origins.first().map_or_else(String::new, |first| {
        format!(
            "\n# stop one origin: every request is still answered, by the other:\n\
             curl -sS -X POST http://{first}/stop\n"
        )
    });
    let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
    let certificate_line = match made {
        Made::New => format!("made just now: {}", certificate.display()),
        Made::AlreadyThere => certificate.display().to_string(),
    };
    let admin = bound.admin_address().map_or_else(String::new, |admin| {
        format!("\n# what it counts:\ncurl -sS http://{admin}/metrics\n")
    });
    format!(
        "\nTollgate {} demo\n\n  \
           proxy        {url}\n  \
           origins      {}\n  \
           certificate  {certificate_line}\n  \
           API key      {DEMO_KEY} (known to everybody: for trying things out only)\n\n\
         Paste these into another terminal:\n\n\
         # 200, over HTTP/2; ask again and the other origin answers:\n\
         {curl} -i {key} {url}/\n\n\
         # 200, over HTTP/1.1:\n\
         {curl} -i --http1.1 {key} {url}/\n\n\
         # 401, without the key:\n\
         {curl} -i {url}/\n\n\
         # 429, once the burst of 20 is used up:\n\
         for i in $(seq 40); do {curl} -o /dev/null -w '%{{http_code}} ' {key} {url}/; done; echo\n\
         {stop}{admin}\n\
         Also: {url}/bytes/1000000 /delay/500 /status/503 /echo /ws\n\
         Ctrl-C ends the demo; a request under way is finished first.\n",
        env!("CARGO_PKG_VERSION"),
        origins.join(", "),
    )
}
