//! What is measured, and how a round goes.

use std::time::Duration;

use crate::Result;
use crate::client::client;
use crate::load::{Load, h2load, wrk};
use crate::peers::{self, Features, KEY, NAMES, Peer, World};
use crate::process::is_installed;

/// One thing to measure.
pub(crate) struct Scenario {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// What the cost is counted in.
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
    pub(crate) in_smoke: bool,
    features: Features,
    kind: Kind,
}

/// What is aimed at.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// The cost, as a multiple of the better of nginx and `HAProxy`.
    Ratio(f64),
    /// The cost itself.
    Cost(f64),
}

#[derive(Clone, Copy)]
enum Kind {
    /// HTTP/1.1 by wrk.
    Http1 { tls: bool, connections: usize, body: Transfer },
    /// HTTP/2 over TLS by h2load: streams at once on one connection.
    Http2 { streams: usize },
    /// A connection and a handshake for every request.
    Handshakes { resumed: bool },
    /// Latency at half of what all can do; which percentile counts.
    FixedRate { percentile: usize },
    /// Memory of connections that do nothing.
    Idle { tls: bool, connections: usize },
    /// CPU per request of two workers, as a multiple of one worker's.
    TwoWorkers,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Transfer {
    /// 1 KiB down.
    Small,
    /// The same, on a connection of its own.
    SmallAndClose,
    /// 1 MiB down.
    Download,
    /// 1 MiB up.
    Upload,
}

const fn http1(
    id: &'static str,
    title: &'static str,
    target: f64,
    tls: bool,
    body: Transfer,
) -> Scenario {
    let large = matches!(body, Transfer::Download | Transfer::Upload);
    Scenario {
        id,
        title,
        unit: if large { "CPU s/GB" } else { "CPU µs/request" },
        target: Target::Ratio(target),
        in_smoke: false,
        features: Features::Bare,
        kind: Kind::Http1 { tls, connections: if large { 8 } else { 64 }, body },
    }
}

const fn of(id: &'static str, title: &'static str, target: Target, kind: Kind) -> Scenario {
    let unit = match kind {
        Kind::Http1 { .. } | Kind::Http2 { .. } => "CPU µs/request",
        Kind::Handshakes { .. } => "CPU µs/connection",
        Kind::FixedRate { .. } => "µs",
        Kind::Idle { .. } => "KiB/connection",
        Kind::TwoWorkers => "× one worker",
    };
    Scenario { id, title, unit, target, in_smoke: false, features: Features::Bare, kind }
}

/// Everything that can be measured.
pub(crate) static SCENARIOS: &[Scenario] = &[
    Scenario { in_smoke: true, ..http1("bare", "h1 → h1, 1 KiB", 0.95, false, Transfer::Small) },
    Scenario {
        in_smoke: true,
        features: Features::Full,
        ..http1("full", "h1 → h1, 1 KiB, all features", 0.95, false, Transfer::Small)
    },
    http1("tls", "TLS 1.3 h1 → h1, 1 KiB", 1.00, true, Transfer::Small),
    Scenario {
        in_smoke: true,
        ..of(
            "h2",
            "h2 (TLS, 100 streams) → h1, 1 KiB",
            Target::Ratio(0.95),
            Kind::Http2 { streams: 100 },
        )
    },
    http1("close", "connection per request, 1 KiB", 1.00, false, Transfer::SmallAndClose),
    of(
        "handshake",
        "TLS 1.3 full handshake + request",
        Target::Ratio(1.00),
        Kind::Handshakes { resumed: false },
    ),
    of(
        "resumed",
        "TLS 1.3 resumed handshake + request",
        Target::Ratio(1.00),
        Kind::Handshakes { resumed: true },
    ),
    http1("download", "1 MiB download", 1.10, false, Transfer::Download),
    http1("download-tls", "1 MiB download, TLS", 1.10, true, Transfer::Download),
    http1("upload", "1 MiB upload", 1.10, false, Transfer::Upload),
    http1("upload-tls", "1 MiB upload, TLS", 1.10, true, Transfer::Upload),
    of("p99", "p99 at half load", Target::Ratio(1.00), Kind::FixedRate { percentile: 1 }),
    of("p999", "p99.9 at half load", Target::Ratio(1.00), Kind::FixedRate { percentile: 2 }),
    of(
        "idle",
        "idle connection, 1,000 open",
        Target::Cost(8.0),
        Kind::Idle { tls: false, connections: 1_000 },
    ),
    of(
        "idle-10k",
        "idle connection, 10,000 open",
        Target::Cost(8.0),
        Kind::Idle { tls: false, connections: 10_000 },
    ),
    of(
        "idle-tls",
        "idle TLS connection, 1,000 open",
        Target::Cost(24.0),
        Kind::Idle { tls: true, connections: 1_000 },
    ),
    of("workers", "CPU per request of two workers", Target::Cost(1.08), Kind::TwoWorkers),
];

/// What one proxy showed in one round.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) cost: f64,
    pub(crate) load: Load,
    pub(crate) resident_kib: u64,
}

/// What one proxy showed in all rounds.
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    pub(crate) samples: Vec<Sample>,
}

/// What all showed.
pub(crate) struct Outcome {
    pub(crate) scenario: &'static Scenario,
    pub(crate) figures: Vec<Figures>,
}

/// Runs a scenario in interleaved rounds.
pub(crate) fn run(
    scenario: &'static Scenario,
    rounds: usize,
    duration: Duration,
) -> Result<Outcome> {
    println!("\n{}: {}", scenario.id, scenario.title);
    let world = World::new()?;
    let mut figures: Vec<Figures> = Vec::new();
    let mut runners = Vec::new();
    if let Some(tool) = scenario.kind.tool().filter(|tool| !is_installed(tool.0)) {
        println!("  left out: {} is not installed: apt-get install {}", tool.0, tool.1);
        return Ok(Outcome { scenario, figures });
    }
    for name in NAMES {
        match Runner::new(&world, name, scenario)? {
            Some(runner) => {
                runners.push(runner);
                figures.push(Figures { name, samples: Vec::new() });
            }
            None => println!("  left out: {}", peers::missing(name).unwrap_or_default()),
        }
    }
    let rate = scenario.kind.rate(&runners)?;
    for round in 1..=rounds {
        print!("  round {round}:");
        for (runner, figures) in runners.iter().zip(&mut figures) {
            match runner.measure(&world, scenario, rate, duration) {
                Ok(sample) => {
                    print!("  {} {:.2}", runner.name, sample.cost);
                    figures.samples.push(sample);
                }
                Err(error) => print!("  {} failed ({error})", runner.name),
            }
        }
        println!();
    }
    Ok(Outcome { scenario, figures })
}

/// A proxy with as many processes as a scenario takes.
struct Runner {
    name: &'static str,
    one: Peer,
    two: Option<Peer>,
}

impl Runner {
    fn new(world: &World, name: &'static str, scenario: &Scenario) -> Result<Option<Self>> {
        let Some(one) = world.start(name, scenario.features, 1)? else { return Ok(None) };
        let two = match scenario.kind {
            Kind::TwoWorkers => world.start(name, scenario.features, 2)?,
            _ => None,
        };
        Ok(Some(Self { name, one, two }))
    }

    fn measure(
        &self,
        world: &World,
        scenario: &Scenario,
        rate: usize,
        duration: Duration,
    ) -> Result<Sample> {
        match scenario.kind {
            Kind::TwoWorkers => {
                let small = |peer: &Peer| wrk(&peer.url(false), 64, duration, &[]);
                let (one, _) = cpu_nanos(&self.one, || small(&self.one))?;
                let two = self.two.as_ref().ok_or("it runs on one worker only")?;
                let (both, load) = cpu_nanos(two, || small(two))?;
                Ok(Sample { cost: both / one, load, resident_kib: two.process.resident_kib() })
            }
            Kind::Idle { tls, connections } => {
                // Memory is not given back: every round needs a process of its own.
                let fresh = world.start(self.name, scenario.features, 1)?.ok_or("it is gone")?;
                idle(&fresh, tls, connections, world)
            }
            kind => {
                let load = || kind.load(&self.one, world, scenario.features, rate, duration);
                let (nanos, load) = cpu_nanos(&self.one, load)?;
                let cost = match kind {
                    Kind::FixedRate { percentile } => load.latency[percentile],
                    Kind::Http1 { body: Transfer::Download | Transfer::Upload, .. } => {
                        // From nanoseconds a mebibyte to seconds a gigabyte.
                        nanos / (1024.0 * 1024.0)
                    }
                    _ => nanos / 1_000.0,
                };
                Ok(Sample { cost, load, resident_kib: self.one.process.resident_kib() })
            }
        }
    }
}

impl Kind {
    /// The program that makes the load, and its package.
    fn tool(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Http1 { .. } | Self::FixedRate { .. } | Self::TwoWorkers => Some(("wrk", "wrk")),
            Self::Http2 { .. } => Some(("h2load", "nghttp2-client")),
            Self::Handshakes { .. } | Self::Idle { .. } => None,
        }
    }

    /// Half of what the slowest of those that matter can do.
    fn rate(self, runners: &[Runner]) -> Result<usize> {
        let Self::FixedRate { .. } = self else { return Ok(0) };
        let mut least = f64::MAX;
        for runner in runners.iter().filter(|runner| runner.name != "pingora") {
            let load = wrk(&runner.one.url(false), 64, Duration::from_secs(2), &[])?;
            least = least.min(load.rate);
        }
        println!("  at {:.0} requests a second", least / 2.0);
        Ok((least / 2.0) as usize)
    }

    fn load(
        self,
        peer: &Peer,
        world: &World,
        features: Features,
        rate: usize,
        duration: Duration,
    ) -> Result<Load> {
        match self {
            Self::Http1 { tls, connections, body } => {
                let mut more = Vec::new();
                if features == Features::Full {
                    more.extend(["-H".to_owned(), format!("X-API-Key: {KEY}")]);
                }
                if body == Transfer::SmallAndClose {
                    more.extend(["-H".to_owned(), "Connection: close".to_owned()]);
                }
                if body == Transfer::Upload {
                    let script = world.dir.path().join("upload.lua");
                    let text = "wrk.method = 'POST'\nwrk.body = string.rep('x', 1048576)\n";
                    std::fs::write(&script, text)?;
                    more.extend(["-s".to_owned(), script.display().to_string()]);
                }
                let mut url = peer.url(tls);
                if body == Transfer::Download {
                    url = url.replace("/1k", "/1m");
                }
                wrk(&url, connections, duration, &more)
            }
            Self::Http2 { streams } => h2load(&peer.url(true), 1, streams, duration),
            Self::Handshakes { resumed } => {
                let kind = if resumed { "resumed" } else { "full" };
                client(kind, &format!("https://{}", peer.tls), duration, 8, world)
            }
            Self::FixedRate { .. } => {
                client("rate", &format!("http://{}", peer.plain), duration, rate, world)
            }
            Self::Idle { .. } | Self::TwoWorkers => Err("not a plain load".into()),
        }
    }
}

impl Peer {
    fn url(&self, tls: bool) -> String {
        if tls { format!("https://{}/1k", self.tls) } else { format!("http://{}/1k", self.plain) }
    }
}

/// CPU time of the proxy for each thing done, in nanoseconds.
fn cpu_nanos(peer: &Peer, load: impl FnOnce() -> Result<Load>) -> Result<(f64, Load)> {
    let before = peer.process.cpu_nanos();
    let load = load()?;
    let used = peer.process.cpu_nanos() - before;
    if load.done == 0 {
        return Err("nothing was answered".into());
    }
    Ok((used as f64 / load.done as f64, load))
}

/// What a connection that does nothing costs in memory, once all have done
/// nothing for a while.
fn idle(peer: &Peer, tls: bool, connections: usize, world: &World) -> Result<Sample> {
    let url = if tls { format!("https://{}", peer.tls) } else { format!("http://{}", peer.plain) };
    let before = peer.process.resident_kib();
    let mut held = Vec::new();
    let hold = Duration::from_secs(2);
    let load = std::thread::scope(|scope| {
        let client = scope.spawn(|| client("idle", &url, hold, connections, world));
        while !client.is_finished() {
            held.push(peer.process.resident_kib());
            std::thread::sleep(Duration::from_millis(50));
        }
        client.join().map_err(|_| "the client panicked")?
    })?;
    // Half a second before the client was seen to have gone.
    let settled = held.iter().rev().nth(10).copied().unwrap_or(before);
    let cost = settled.saturating_sub(before) as f64 / connections as f64;
    let resident_kib = held.into_iter().max().unwrap_or(before);
    Ok(Sample { cost, load, resident_kib })
}
