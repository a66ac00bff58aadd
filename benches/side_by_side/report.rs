//! Figures as a table to read and a chart to look at.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::chart::chart;
use crate::peers::{CACHES, EMBEDDED, Field, PROXIES, missing};
use crate::round::{Figures, Outcome, Plan, Sample};
use crate::scenario::{Scenario, Target};

/// Between these lines docs/performance.md has the table.
const BEGIN: &str = "<!-- table: written by `cargo bench --bench side_by_side -- --publish` -->";
const END: &str = "<!-- end of table -->";

impl Outcome {
    pub(crate) fn of(&self, name: &str) -> Option<&Figures> {
        self.figures.iter().find(|f| f.name == name && f.samples().next().is_some())
    }

    pub(crate) fn is_of(&self, field: &Field) -> bool {
        std::ptr::eq(self.scenario.field, field)
    }

    /// The cost of one as a multiple of the better of the rivals, in the median
    /// of the rounds.
    pub(crate) fn ratio(&self, name: &str) -> Option<f64> {
        let rivals = self.scenario.field.rivals.iter().filter_map(|rival| self.of(rival));
        self.against(name, &rivals.collect::<Vec<_>>())
    }

    /// The same against the better of these.
    fn against(&self, name: &str, rivals: &[&Figures]) -> Option<f64> {
        let rounds = self.of(name)?.rounds.iter().enumerate();
        let ratios = rounds.filter_map(|(round, sample)| {
            let costs = rivals.iter().filter_map(|rival| Some(rival.rounds[round]?.cost));
            Some((*sample)?.cost / costs.min_by(f64::total_cmp)?)
        });
        median(ratios.collect())
    }

    fn is_met(&self) -> Option<bool> {
        let ours = self.of(self.scenario.field.ours)?;
        Some(match self.scenario.target {
            Target::Ratio(target) => self.ratio(ours.name)? <= target,
            Target::Cost(target) => ours.median(|s| s.cost)? <= target,
            Target::Answered => ours.rounds.iter().all(Option::is_some),
        })
    }
}

impl Figures {
    fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.rounds.iter().flatten()
    }

    fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples().map(of).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Says what is about to be measured, and where.
pub(crate) fn environment(scenarios: &[&Scenario], plan: Plan) {
    println!("{} scenarios, {}, on {}", scenarios.len(), extent(plan), machine());
    for name in PROXIES.names.iter().chain(EMBEDDED.names).chain(&["varnish"]) {
        match missing(name) {
            Some(why) => println!("  {why}"),
            None => println!("  {name}: {}", version(name)),
        }
    }
}

fn extent(plan: Plan) -> String {
    // wrk and h2load count whole seconds.
    let seconds = plan.duration.max(Duration::from_secs(1)).as_secs_f64();
    format!("{} rounds of {seconds:.1} s for each proxy", plan.rounds)
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("an unknown processor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores of {model}, Linux {kernel}")
}

fn version(name: &str) -> String {
    let says = |title: &str, before: &str, program: &str, flag: &str| {
        let output = Command::new(program).arg(flag).output().ok();
        let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let rest = text.split_once(before).map_or("?", |(_, rest)| rest);
        let number = |c: char| c == '.' || c.is_ascii_digit();
        format!("{title} {}", rest.split(|c| !number(c)).next().unwrap_or("?"))
    };
    let said = |title: &str, before: &str| says(title, before, name, "-v");
    // The version that a crate below benches/peers/ was locked to.
    let locked = |folder: &str, package: &str| {
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(folder);
        let lock = fs::read_to_string(lock.join("Cargo.lock")).unwrap_or_default();
        let rest =
            lock.split_once(&format!("name = \"{package}\"\nversion = \"")).map(|(_, rest)| rest);
        format!("{package} {}", rest.and_then(|rest| rest.split('"').next()).unwrap_or("?"))
    };
    match name {
        "nginx" => said("nginx", "nginx/"),
        "haproxy" => said("HAProxy", "version "),
        "varnish" => says("Varnish", "varnish-", "varnishd", "-V"),
        "pingora" => locked("pingora", "pingora"),
        "axum-example" => locked("embedded", "axum"),
        "axum-reverse-proxy" => locked("embedded", "axum-reverse-proxy"),
        _ => format!("Tollgate {}", env!("CARGO_PKG_VERSION")),
    }
}

/// The costs of all that took part in these scenarios.
fn table(outcomes: &[Outcome], field: &Field) -> String {
    let outcomes: Vec<_> = outcomes.iter().filter(|outcome| outcome.is_of(field)).collect();
    if outcomes.is_empty() {
        return String::new();
    }
    let with_pingora = field.names.contains(&"pingora");
    let mut text = format!("| scenario | unit | {} | ratio | target |", field.titles.join(" | "));
    text.push_str(if with_pingora { " of Pingora |\n" } else { "\n" });
    text.push_str(&"|---".repeat(4 + field.names.len() + usize::from(with_pingora)));
    text.push_str("|\n");
    for outcome in outcomes {
        let Scenario { title, unit, target, .. } = outcome.scenario;
        let _ = write!(text, "| {title} | {unit} |");
        for name in field.names {
            let cost = outcome.of(name).and_then(|figures| figures.median(|s| s.cost));
            let _ = write!(text, " {} |", shown(cost));
        }
        let target = match target {
            Target::Ratio(target) => format!("≤ {target:.2}"),
            Target::Cost(target) => format!("≤ {target} {unit}"),
            Target::Answered => "all answered".to_owned(),
        };
        let mark = match outcome.is_met() {
            Some(true) => "✓",
            Some(false) => "✗",
            None => "",
        };
        let ratio = shown(outcome.ratio(field.ours));
        let _ = write!(text, " **{ratio}** | {target} {mark} |");
        if let Some(pingora) = with_pingora.then(|| outcome.of("pingora")) {
            let pingora = pingora.and_then(|pingora| outcome.against(field.ours, &[pingora]));
            let _ = write!(text, " {} |", shown(pingora));
        }
        text.push('\n');
    }
    text
}

/// A table for each field.
fn tables(outcomes: &[Outcome]) -> String {
    let all = [&PROXIES, &EMBEDDED, &CACHES].map(|field| table(outcomes, field));
    let some: Vec<String> = all.into_iter().filter(|table| !table.is_empty()).collect();
    some.join("\n")
}

fn details(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| scenario | proxy | a second | p50 µs | p99 µs | p99.9 µs | resident MiB | system calls |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        for figures in &outcome.figures {
            let rate = figures.median(|s| s.load.rate).filter(|rate| *rate > 0.0);
            let rate = rate.map_or_else(String::new, |rate| format!("{rate:.0}"));
            let latency = |index: usize| {
                let value = figures.median(|s| s.load.latency[index]).filter(|v| *v > 0.0);
                value.map_or_else(String::new, |value| format!("{value:.0}"))
            };
            let calls = figures.calls.map_or_else(String::new, |calls| format!("{calls:.2}"));
            let resident = figures.median(|s| s.resident_kib as f64 / 1024.0);
            let _ = writeln!(
                text,
                "| {} | {} | {rate} | {} | {} | {} | {} | {calls} |",
                outcome.scenario.id,
                figures.name,
                latency(0),
                latency(1),
                latency(2),
                shown(resident)
            );
        }
    }
    text
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}

/// Prints the table.
pub(crate) fn print(outcomes: &[Outcome]) {
    println!("\n{}", tables(outcomes));
    println!("{}", details(outcomes));
}

/// Writes table and chart below `target/`.
pub(crate) fn write(outcomes: &[Outcome]) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/side_by_side");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("table.md"), format!("{}\n{}", tables(outcomes), details(outcomes)))?;
    fs::write(folder.join("chart.svg"), chart(outcomes))?;
    Ok(folder)
}

/// Puts table and chart where docs/performance.md shows them.
pub(crate) fn publish(outcomes: &[Outcome], plan: Plan) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    fs::write(docs.join("performance.svg"), chart(outcomes))?;
    let path = docs.join("performance.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("docs/performance.md has lost its table")?;
    let (_, after) = rest.split_once(END).ok_or("docs/performance.md has lost its table")?;
    let known = PROXIES.names.iter().chain(EMBEDDED.rivals).chain(&["varnish"]);
    let known = known.filter(|name| missing(name).is_none());
    let versions: Vec<String> = known.map(|name| version(name)).collect();
    let (machine, extent, versions) = (machine(), extent(plan), versions.join("; "));
    let (tables, details) = (tables(outcomes), details(outcomes));
    let new = format!(
        "{before}{BEGIN}\n\nOn {machine}; {extent}. {versions}.\n\n{tables}\n\
         Throughput, latency, memory and system calls for each request in the same run:\n\n\
         {details}\n{END}{after}"
    );
    fs::write(&path, new)?;
    println!("written: {}", path.display());
    Ok(())
}
