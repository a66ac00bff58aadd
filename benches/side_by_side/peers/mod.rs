//! Who is measured, each told the same.

mod embedded;
mod haproxy;
mod nginx;
mod pingora;
mod tollgate;
mod varnish;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::process::{LOAD_CORE, PROXY_CORE, Process, free_address, is_installed};

/// The API key that the full set of features asks for.
pub(crate) const KEY: &str = "bench-key-0123456789";

/// Who is measured beside whom, in the order in which a round goes.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) names: &'static [&'static str],
    /// How a table calls them.
    pub(crate) titles: &'static [&'static str],
    /// Of the better of these the others' cost is a multiple.
    pub(crate) rivals: &'static [&'static str],
    /// The one of them that is Tollgate.
    pub(crate) ours: &'static str,
}

/// Proxies as programs of their own.
pub(crate) static PROXIES: Field = Field {
    names: &["nginx", "haproxy", "tollgate", "pingora"],
    titles: &["nginx", "HAProxy", "Tollgate", "Pingora"],
    rivals: &["nginx", "haproxy"],
    ours: "tollgate",
};

/// Services inside one and the same axum application.
pub(crate) static EMBEDDED: Field = Field {
    names: &["axum-example", "axum-reverse-proxy", "tollgate-service"],
    titles: &["axum's example", "axum-reverse-proxy", "Tollgate's service"],
    rivals: &["axum-example", "axum-reverse-proxy"],
    ours: "tollgate-service",
};

/// Caches. One that speaks no TLS has the usual one in front of it.
pub(crate) static CACHES: Field = Field {
    names: &["nginx", "varnish", "tollgate"],
    titles: &["nginx", "Varnish", "Tollgate"],
    rivals: &["nginx", "varnish"],
    ours: "tollgate",
};

/// What a proxy is told to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Features {
    /// Forward, and nothing else: no access log either.
    Bare,
    /// Rate limit by address, API key, header rewriting, access log to a file.
    Full,
    /// Store, and answer from what is stored; no access log.
    Cached,
}

/// How a proxy is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) features: Features,
    pub(crate) workers: usize,
    pub(crate) scale: Scale,
}

/// How much is configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scale {
    /// One route to one origin.
    One,
    /// [`ROUTES`] routes to [`UPSTREAMS`] upstreams of [`ORIGINS_EACH`] origins.
    Thousands,
}

/// Route N takes what is below `/service/N/`, and goes to upstream N modulo
/// [`UPSTREAMS`].
pub(crate) const ROUTES: usize = 10_000;
pub(crate) const UPSTREAMS: usize = 100;
pub(crate) const ORIGINS_EACH: usize = 10;

impl Setup {
    /// One worker, one route, one origin.
    pub(crate) fn new(features: Features) -> Self {
        Self { features, workers: 1, scale: Scale::One }
    }
}

/// A proxy that runs.
pub(crate) struct Peer {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) process: Process,
    /// Takes its log, if it hands it to another process.
    _sink: Option<Process>,
}

/// What all proxies of a scenario share.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    /// A folder in memory.
    memory: Option<tempfile::TempDir>,
    pub(crate) origin: SocketAddr,
    origin_process: Process,
}

impl World {
    /// Starts the origin, and makes a certificate. With thousands of origins it
    /// is all of them: it answers on every loopback address.
    pub(crate) fn new(scale: Scale) -> Result<Self> {
        let (dir, memory) = (tempfile::TempDir::new()?, tempfile::TempDir::new_in("/dev/shm").ok());
        let made = rcgen::generate_simple_self_signed(["bench.test".to_owned()])?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(dir.path().join("cert.pem"), &certificate)?;
        fs::write(dir.path().join("key.pem"), &key)?;
        fs::write(dir.path().join("both.pem"), certificate + &key)?;
        fs::write(dir.path().join("key"), KEY)?;
        let origin = free_address()?;
        let listen = match scale {
            Scale::One => origin,
            Scale::Thousands => (Ipv4Addr::UNSPECIFIED, origin.port()).into(),
        };
        let log = dir.path().join("origin.log");
        let command = this_program(["--origin", &listen.to_string()])?;
        let mut process = Process::start(LOAD_CORE, &command, &log)?;
        process.listening(origin, &log)?;
        Ok(Self { dir, memory, origin, origin_process: process })
    }

    /// CPU time that the origin has used.
    pub(crate) fn origin_nanos(&self) -> u64 {
        self.origin_process.cpu_nanos()
    }

    /// The certificate that every proxy shows.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// Starts a proxy; `None` if it is not to be had here.
    pub(crate) fn start(&self, name: &str, setup: Setup) -> Result<Option<Peer>> {
        if missing(name).is_some() {
            return Ok(None);
        }
        let Setup { features, workers, scale } = setup;
        let dir = self.dir.path().join(format!("{name}-{features:?}-{workers}-{scale:?}"));
        fs::create_dir_all(&dir)?;
        let (plain, tls, sink) = (free_address()?, free_address()?, free_address()?);
        let told = Told { world: self, dir: &dir, plain, tls, sink, setup };
        let command = told.command(name)?;
        let sink = told.start_sink(name)?;
        let log = dir.join("said.log");
        let cores = if workers > 1 { "0,1" } else { PROXY_CORE };
        let mut process = Process::start(cores, &command, &log)?;
        process.listening(plain, &log)?;
        Ok(Some(Peer { plain, tls, process, _sink: sink }))
    }
}

/// Why a proxy is not to be had, and how it would be.
pub(crate) fn missing(name: &str) -> Option<String> {
    match name {
        "nginx" | "haproxy" if !is_installed(name) => {
            Some(format!("{name} is not installed: apt-get install {name}"))
        }
        "varnish" if !is_installed("varnishd") || !is_installed("haproxy") => {
            Some(format!("{name} is not installed: apt-get install varnish haproxy"))
        }
        "pingora" if !pingora::program().is_file() => {
            Some(format!("{name} is not built: {}", how_to_build("pingora")))
        }
        "axum-example" | "axum-reverse-proxy" | "tollgate-service" if !embedded::is_current() => {
            Some(format!("{name} is not built of these sources: {}", how_to_build("embedded")))
        }
        _ => None,
    }
}

fn how_to_build(folder: &str) -> String {
    format!("cargo build --release --manifest-path benches/peers/{folder}/Cargo.toml")
}

/// Where the program of a crate below `benches/peers/` is once it is built.
fn built(folder: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = || root.join("benches/peers").join(folder).join("target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(beside, |dir| root.join(dir));
    target.join("release").join(format!("{folder}-peer"))
}

/// This program, in another of its parts.
pub(crate) fn this_program<const N: usize>(arguments: [&str; N]) -> Result<Vec<String>> {
    let mut command = vec![std::env::current_exe()?.display().to_string()];
    command.extend(arguments.map(str::to_owned));
    Ok(command)
}

/// What one proxy is told.
struct Told<'a> {
    world: &'a World,
    dir: &'a Path,
    plain: SocketAddr,
    tls: SocketAddr,
    /// Where the log goes that the proxy does not write itself.
    sink: SocketAddr,
    setup: Setup,
}

impl Told<'_> {
    /// Writes a proxy's configuration, and gives the command that starts it.
    fn command(&self, name: &str) -> Result<Vec<String>> {
        let config = self.dir.join("config");
        let path = config.display().to_string();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (text, command): (String, Vec<String>) = match name {
            "nginx" => (self.nginx(), words(&["nginx", "-c", &path, "-e", "stderr"])),
            "haproxy" => (self.haproxy()?, words(&["haproxy", "-f", &path])),
            "varnish" => self.varnish(&path),
            "tollgate" => {
                let program = env!("CARGO_BIN_EXE_tollgate");
                (self.tollgate(), words(&[program, "run", "--config", &path]))
            }
            "pingora" => (String::new(), self.pingora()),
            _ => (String::new(), self.embedded(name)),
        };
        fs::write(config, text)?;
        Ok(command)
    }

    /// `HAProxy` writes no file: it hands its log on.
    fn start_sink(&self, name: &str) -> Result<Option<Process>> {
        if name != "haproxy" || self.setup.features != Features::Full {
            return Ok(None);
        }
        let (address, file) = (self.sink.to_string(), self.file("access.log"));
        let log = self.dir.join("sink.log");
        let command = this_program(["--sink", &address, &file])?;
        let mut process = Process::start(LOAD_CORE, &command, &log)?;
        process.listening(self.sink, &log)?;
        Ok(Some(process))
    }

    fn certificate(&self, file: &str) -> String {
        self.world.dir.path().join(file).display().to_string()
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A file in memory, if there is such a file system.
    fn file_in_memory(&self, name: &str) -> String {
        let folder = self.world.memory.as_ref().unwrap_or(&self.world.dir).path();
        folder.join(name).display().to_string()
    }

    /// The upstreams, each with its origins.
    fn upstreams(&self) -> Vec<Vec<SocketAddr>> {
        let port = self.world.origin.port();
        let origin = |upstream: usize, index: usize| -> SocketAddr {
            (Ipv4Addr::new(127, 1, upstream as u8, 1 + index as u8), port).into()
        };
        match self.setup.scale {
            Scale::One => vec![vec![self.world.origin]],
            Scale::Thousands => (0..UPSTREAMS)
                .map(|upstream| (0..ORIGINS_EACH).map(|index| origin(upstream, index)).collect())
                .collect(),
        }
    }

    /// The routes, as a prefix each and the number of its upstream.
    fn routes(&self) -> Vec<(String, usize)> {
        match self.setup.scale {
            Scale::One => vec![("/".to_owned(), 0)],
            Scale::Thousands => {
                (0..ROUTES).map(|route| (format!("/service/{route}/"), route % UPSTREAMS)).collect()
            }
        }
    }
}
