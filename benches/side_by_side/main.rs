//! Tollgate beside nginx, `HAProxy` and, where it is built, a Pingora proxy, in
//! one run with the same flags.
//!
//! ```console
//! $ cargo bench --bench side_by_side                      # everything
//! $ cargo bench --bench side_by_side -- bare tls          # some scenarios
//! $ cargo bench --bench side_by_side -- --smoke           # does it run at all?
//! $ cargo bench --bench side_by_side -- --publish         # and into docs/
//! ```
//!
//! The proxy under test is pinned to core 0, origin and load to core 1. What is
//! compared is the proxy's CPU time per request, as a ratio to the others of
//! the same round; a round runs every proxy once. Load comes from `wrk` and
//! `h2load`, and from this program where neither will do (a fixed rate, single
//! handshakes, idle connections). Everything stays on loopback.

mod client;
mod load;
mod origin;
mod peers;
mod process;
mod report;
mod scenario;

use std::error::Error;
use std::time::Duration;

use scenario::{SCENARIOS, Scenario};

/// Whatever went wrong, as far as a benchmark cares.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What the command line asks for.
struct Options {
    rounds: usize,
    duration: Duration,
    publish: bool,
    smoke: bool,
    scenarios: Vec<&'static Scenario>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    match arguments.peek().map(String::as_str) {
        // This program is its own origin and its own client, each in a process
        // that can be pinned.
        Some("--origin") => return origin::run(&arguments.nth(1).ok_or("--origin ADDRESS")?),
        Some("--client") => return client::run(arguments.skip(1)),
        _ => {}
    }
    let options = Options::read(arguments)?;
    report::environment(&options.scenarios, options.rounds, options.duration);
    let mut results = Vec::new();
    for scenario in &options.scenarios {
        results.push(scenario::run(scenario, options.rounds, options.duration)?);
    }
    report::print(&results);
    let folder = report::write(&results)?;
    println!("\nwritten: {}", folder.display());
    if options.publish {
        report::publish(&results)?;
    }
    if options.smoke && results.iter().any(|result| result.of("tollgate").is_none()) {
        return Err("tollgate has no figures in a scenario".into());
    }
    Ok(())
}

impl Options {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            rounds: 3,
            duration: Duration::from_secs(4),
            publish: false,
            smoke: false,
            scenarios: Vec::new(),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // cargo adds it.
                "--bench" => {}
                "--smoke" => {
                    options.smoke = true;
                    options.rounds = 1;
                    options.duration = Duration::from_millis(500);
                }
                "--publish" => options.publish = true,
                "--rounds" => options.rounds = arguments.next().ok_or("--rounds N")?.parse()?,
                "--seconds" => {
                    let seconds = arguments.next().ok_or("--seconds N")?.parse()?;
                    options.duration = Duration::from_secs(seconds);
                }
                name => {
                    let found = SCENARIOS.iter().filter(|s| s.id.starts_with(name));
                    let before = options.scenarios.len();
                    options.scenarios.extend(found);
                    if options.scenarios.len() == before {
                        let known: Vec<_> = SCENARIOS.iter().map(|s| s.id).collect();
                        return Err(format!("no scenario `{name}`; there are: {known:?}").into());
                    }
                }
            }
        }
        if options.scenarios.is_empty() {
            let all = SCENARIOS.iter().filter(|scenario| !options.smoke || scenario.in_smoke);
            options.scenarios = all.collect();
        }
        Ok(options)
    }
}
