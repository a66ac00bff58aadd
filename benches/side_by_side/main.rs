//! Tollgate beside nginx, `HAProxy` and, where it is built, a Pingora proxy, in
//! one run with the same flags; and inside axum, beside other services that are.
//!
//! ```console
//! $ cargo bench --bench side_by_side                      # everything
//! $ cargo bench --bench side_by_side -- bare tls          # some scenarios
//! $ cargo bench --bench side_by_side -- --smoke           # does it run at all?
//! $ cargo bench --bench side_by_side -- --publish         # and into docs/
//! ```
//!
//! `--rounds N` and `--seconds N` say how often and how long; `docs/performance.md`
//! says how the proxies below `benches/peers/` are built.
//!
//! The proxy under test is pinned to core 0, origin and load to core 1. What is
//! compared is the proxy's CPU time per request, as a ratio to the others of
//! the same round; a round runs every proxy once. Load comes from `wrk` and
//! `h2load`, and from this program where neither will do (a fixed rate, single
//! handshakes, idle connections). Everything stays on loopback.

mod chart;
mod client;
mod limits;
mod load;
mod origin;
mod peers;
mod process;
mod report;
mod round;
mod scenario;
mod sink;
mod trace;

use std::error::Error;
use std::time::Duration;

use round::Plan;
use scenario::{SCENARIOS, Scenario};

/// Whatever went wrong, as far as a benchmark cares.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What the command line asks for.
struct Options {
    plan: Plan,
    publish: bool,
    smoke: bool,
    scenarios: Vec<&'static Scenario>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    match arguments.peek().map(String::as_str) {
        // This program is its own origin, its own client and more, each in a
        // process that can be pinned.
        Some("--origin") => return origin::run(&arguments.nth(1).ok_or("--origin ADDRESS")?),
        Some("--client") => return client::run(arguments.skip(1)),
        Some("--sink") => {
            let (address, file) = (arguments.nth(1), arguments.next());
            return sink::run(
                &address.ok_or("--sink ADDRESS")?,
                &file.ok_or("--sink ADDRESS FILE")?,
            );
        }
        _ => {}
    }
    let options = Options::read(arguments)?;
    limits::raise();
    report::environment(&options.scenarios, options.plan);
    let mut results = Vec::new();
    for scenario in &options.scenarios {
        results.push(round::run(scenario, options.plan)?);
    }
    report::print(&results);
    let folder = report::write(&results)?;
    println!("\nwritten: {}", folder.display());
    if options.publish {
        report::publish(&results, options.plan)?;
    }
    let ours_ran = |result: &round::Outcome| result.of(result.scenario.field.ours).is_some();
    if options.smoke && !results.iter().all(ours_ran) {
        return Err("Tollgate has no figures in a scenario".into());
    }
    Ok(())
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut publish, mut smoke, mut scenarios) = (false, false, Vec::new());
        let (mut rounds, mut duration) = (None, None);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // cargo adds it.
                "--bench" => {}
                "--smoke" => smoke = true,
                "--publish" => publish = true,
                "--rounds" => rounds = Some(arguments.next().ok_or("--rounds N")?.parse()?),
                "--seconds" => {
                    let seconds = arguments.next().ok_or("--seconds N")?.parse()?;
                    duration = Some(Duration::from_secs(seconds));
                }
                name => scenarios.extend(named(name)?),
            }
        }
        if scenarios.is_empty() {
            let all = SCENARIOS.iter().filter(|scenario| !smoke || scenario.in_smoke);
            scenarios = all.collect();
        }
        let (short, long) = (Duration::from_millis(500), Duration::from_secs(4));
        let plan = Plan {
            rounds: rounds.unwrap_or(if smoke { 1 } else { 3 }),
            duration: duration.unwrap_or(if smoke { short } else { long }),
            traced: !smoke,
        };
        Ok(Self { plan, publish, smoke, scenarios })
    }
}

/// The scenarios whose name begins like this, or the one that is called so.
fn named(name: &str) -> Result<Vec<&'static Scenario>> {
    if let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.id == name) {
        return Ok(vec![scenario]);
    }
    let found: Vec<_> = SCENARIOS.iter().filter(|s| s.id.starts_with(name)).collect();
    if found.is_empty() {
        let known: Vec<_> = SCENARIOS.iter().map(|s| s.id).collect();
        return Err(format!("no scenario `{name}`; there are: {known:?}").into());
    }
    Ok(found)
}
