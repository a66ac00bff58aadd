//! How a round goes.

use std::time::Duration;

use tokio::time::Instant;

use crate::Result;
use crate::client::client;
use crate::load::{Load, h2load, wrk};
use crate::peers::{self, Features, KEY, Peer, ROUTES, Setup, World};
use crate::process::is_installed;
use crate::scenario::{Kind, Scenario, Transfer};
use crate::{limits, trace};

/// How often, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    /// Whether system calls are counted after the last round.
    pub(crate) traced: bool,
}

/// What one proxy showed in one round.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) cost: f64,
    pub(crate) load: Load,
    pub(crate) resident_kib: u64,
}

/// What one proxy showed.
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    /// By round; `None` where it failed.
    pub(crate) rounds: Vec<Option<Sample>>,
    /// System calls for each request, under load.
    pub(crate) calls: Option<f64>,
}

/// What all showed.
pub(crate) struct Outcome {
    pub(crate) scenario: &'static Scenario,
    pub(crate) figures: Vec<Figures>,
}

/// Runs a scenario in interleaved rounds.
pub(crate) fn run(scenario: &'static Scenario, plan: Plan) -> Result<Outcome> {
    println!("\n{}: {}", scenario.id, scenario.title);
    let mut figures: Vec<Figures> = Vec::new();
    if let Some(why) = lacking(scenario) {
        println!("  left out: {why}");
        return Ok(Outcome { scenario, figures });
    }
    let world = World::new(scenario.scale())?;
    let mut runners = Vec::new();
    for name in scenario.field.names.iter().filter(|name| scenario.is_for(name)) {
        match Runner::new(&world, name, scenario)? {
            Some(runner) => {
                runners.push(runner);
                figures.push(Figures { name, rounds: Vec::new(), calls: None });
            }
            None => println!("  left out: {}", peers::missing(name).unwrap_or_default()),
        }
    }
    let rate = rate(scenario, &runners)?;
    for round in 1..=plan.rounds {
        print!("  round {round}:");
        for (runner, figures) in runners.iter().zip(&mut figures) {
            let sample = runner.measure(rate, plan.duration);
            match &sample {
                Ok(sample) => print!("  {} {:.2}", runner.name, sample.cost),
                Err(error) => print!("  {} failed ({error})", runner.name),
            }
            figures.rounds.push(sample.ok());
        }
        println!();
    }
    for (runner, figures) in runners.iter().zip(&mut figures).filter(|_| plan.traced) {
        figures.calls = runner.system_calls();
    }
    Ok(Outcome { scenario, figures })
}

/// What a scenario cannot be measured without.
fn lacking(scenario: &Scenario) -> Option<String> {
    if let Some((tool, package)) = scenario.tool().filter(|(tool, _)| !is_installed(tool)) {
        return Some(format!("{tool} is not installed: apt-get install {package}"));
    }
    let (needed, allowed) = (scenario.open_files(), limits::open_files());
    (allowed < needed).then(|| {
        format!("it takes {needed} open files, {allowed} are allowed: ulimit -Hn {needed}")
    })
}

/// Half of what the slowest of those that matter can do.
fn rate(scenario: &Scenario, runners: &[Runner<'_>]) -> Result<usize> {
    let Kind::FixedRate { .. } = scenario.kind else { return Ok(0) };
    let mut least = f64::MAX;
    for runner in runners.iter().filter(|runner| runner.name != "pingora") {
        let load = wrk(&runner.peer(0)?.url(false), 64, Duration::from_secs(2), &[])?;
        least = least.min(load.rate);
    }
    println!("  at {:.0} requests a second", least / 2.0);
    Ok((least / 2.0) as usize)
}

/// A proxy with as many processes as a scenario takes.
struct Runner<'a> {
    world: &'a World,
    name: &'static str,
    scenario: &'static Scenario,
    peers: Vec<Peer>,
}

impl<'a> Runner<'a> {
    fn new(
        world: &'a World,
        name: &'static str,
        scenario: &'static Scenario,
    ) -> Result<Option<Self>> {
        if peers::missing(name).is_some() {
            return Ok(None);
        }
        let started = scenario.setups().into_iter().map(|setup| world.start(name, setup));
        let peers = started.filter_map(Result::transpose).collect::<Result<_>>()?;
        Ok(Some(Self { world, name, scenario, peers }))
    }

    fn peer(&self, index: usize) -> Result<&Peer> {
        Ok(self.peers.get(index).ok_or("it does not run")?)
    }

    /// A process of which nothing was asked yet.
    fn fresh(&self, workers: usize) -> Result<Peer> {
        let setup = Setup { workers, ..Setup::new(self.scenario.features) };
        Ok(self.world.start(self.name, setup)?.ok_or("it is gone")?)
    }

    fn measure(&self, rate: usize, duration: Duration) -> Result<Sample> {
        match self.scenario.kind {
            Kind::TwoWorkers => {
                let cached = self.scenario.features == Features::Cached;
                let path = if cached { Transfer::Hit.path() } else { "/1k" };
                let url = |peer: &Peer| peer.url(false).replace("/1k", path);
                self.multiple(|peer| wrk(&url(peer), 64, duration, &[]))
            }
            Kind::Thousands => {
                let script = self.script(&format!(
                    "local n, next = 0, {{}}\n\
                     init = function() for i = 1, {ROUTES} do next[i] = \
                     wrk.format(nil, '/service/' .. (i * 7919 % {ROUTES}) .. '/1k') end end\n\
                     request = function() n = n % {ROUTES} + 1 return next[n] end\n"
                ))?;
                self.multiple(|peer| wrk(&peer.url(false), 64, duration, &script))
            }
            Kind::Idle { tls, connections } => idle(&self.fresh(1)?, tls, connections, self.world),
            Kind::Active { idle, active } => {
                beside_idle(&self.fresh(2)?, idle, active, duration, self.world)
            }
            Kind::Skew { connections, rate } => {
                let peer = self.peer(0)?;
                let before = peer.process.thread_nanos();
                let load = h2load(&peer.url(true), connections, 10, Some(rate), duration)?;
                let cost = peer.process.skew_since(&before, 2)?;
                Ok(Sample { cost, load, resident_kib: peer.process.resident_kib() })
            }
            kind => {
                let peer = self.peer(0)?;
                let asked = self.world.origin_nanos();
                let (nanos, load) = cpu_nanos(peer, || self.load(peer, rate, duration))?;
                let asked = (self.world.origin_nanos() - asked) as f64 / load.done as f64;
                if self.scenario.features == Features::Cached && asked > nanos / 50.0 {
                    return Err("it asks the origin".into());
                }
                let cost = match kind {
                    Kind::FixedRate { percentile } => load.latency[percentile],
                    // From nanoseconds a mebibyte to seconds a gigabyte.
                    Kind::Http1 { body, .. } if body.is_large() => nanos / (1024.0 * 1024.0),
                    _ => nanos / 1_000.0,
                };
                Ok(Sample { cost, load, resident_kib: peer.process.resident_kib() })
            }
        }
    }

    /// The cost of the second process as a multiple of the first's.
    fn multiple(&self, load: impl Fn(&Peer) -> Result<Load>) -> Result<Sample> {
        let (first, second) = (self.peer(0)?, self.peer(1)?);
        let (one, _) = cpu_nanos(first, || load(first))?;
        let (other, load) = cpu_nanos(second, || load(second))?;
        Ok(Sample { cost: other / one, load, resident_kib: second.process.resident_kib() })
    }

    fn load(&self, peer: &Peer, rate: usize, duration: Duration) -> Result<Load> {
        match self.scenario.kind {
            Kind::Http1 { tls, connections, body } => {
                let mut more = Vec::new();
                if self.scenario.features == Features::Full {
                    more.extend(["-H".to_owned(), format!("X-API-Key: {KEY}")]);
                }
                if body == Transfer::SmallAndClose {
                    more.extend(["-H".to_owned(), "Connection: close".to_owned()]);
                }
                if body == Transfer::Upload {
                    let text = "wrk.method = 'POST'\nwrk.body = string.rep('x', 1048576)\n";
                    more.extend(self.script(text)?);
                }
                let url = peer.url(tls).replace("/1k", body.path());
                wrk(&url, connections, duration, &more)
            }
            Kind::Http2 { streams } => h2load(&peer.url(true), 1, streams, None, duration),
            Kind::Handshakes { resumed } => {
                let kind = if resumed { "resumed" } else { "full" };
                client(kind, &format!("https://{}", peer.tls), duration, 8, self.world)
            }
            Kind::FixedRate { .. } => {
                client("rate", &format!("http://{}", peer.plain), duration, rate, self.world)
            }
            _ => Err("not a plain load".into()),
        }
    }

    /// What wrk needs to be told to run a script.
    fn script(&self, text: &str) -> Result<Vec<String>> {
        let script = self.world.dir.path().join("script.lua");
        std::fs::write(&script, text)?;
        Ok(vec!["-s".to_owned(), script.display().to_string()])
    }

    /// System calls for each request, where requests are what is counted.
    fn system_calls(&self) -> Option<f64> {
        let counted = match self.scenario.kind {
            Kind::Http1 { body, .. } => !body.is_large(),
            Kind::Http2 { .. } => true,
            _ => false,
        };
        let peer = self.peers.first().filter(|_| counted && trace::is_possible())?;
        let load = || self.load(peer, 0, Duration::from_secs(1));
        trace::system_calls(&peer.process, self.world.dir.path(), load)
            .inspect_err(|error| println!("  no system calls of {}: {error}", self.name))
            .ok()
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

/// What a request costs while other connections are held that do nothing. Those
/// are asked again at the end, so that none was lost.
fn beside_idle(
    peer: &Peer,
    idle: usize,
    active: usize,
    duration: Duration,
    world: &World,
) -> Result<Sample> {
    let url = format!("http://{}", peer.plain);
    let hold = duration.max(Duration::from_secs(1)) + Duration::from_secs(3);
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| client("held", &url, hold, idle, world));
        let patience = Instant::now() + Duration::from_secs(20);
        while peer.process.open_files() < idle {
            if holder.is_finished() || Instant::now() > patience {
                holder.join().map_err(|_| "the client panicked")??;
                return Err("the idle connections were not all taken".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let (nanos, load) = cpu_nanos(peer, || wrk(&peer.url(false), active, duration, &[]))?;
        let resident_kib = peer.process.resident_kib();
        let held = holder.join().map_err(|_| "the client panicked")??;
        if held.done != idle as u64 {
            let lost = idle as u64 - held.done;
            return Err(format!("{lost} of {idle} idle connections were lost").into());
        }
        Ok(Sample { cost: nanos / 1_000.0, load, resident_kib })
    })
}
