//! Figures as a table to read and a chart to look at.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::peers::{NAMES, missing};
use crate::scenario::{Figures, Outcome, Sample, Scenario, Target};

/// Between these lines docs/performance.md has the table.
const BEGIN: &str = "<!-- table: written by `cargo bench --bench side_by_side -- --publish` -->";
const END: &str = "<!-- end of table -->";

impl Outcome {
    pub(crate) fn of(&self, name: &str) -> Option<&Figures> {
        self.figures.iter().find(|f| f.name == name && !f.samples.is_empty())
    }

    /// The cost of a proxy as a multiple of the better of nginx and `HAProxy`, in
    /// the median of the rounds.
    fn ratio(&self, name: &str) -> Option<f64> {
        let rounds = self.of(name)?.samples.iter().enumerate();
        let ratios = rounds.filter_map(|(round, sample)| {
            let peers = ["nginx", "haproxy"].into_iter().filter_map(|peer| self.of(peer));
            let costs = peers.filter_map(|peer| Some(peer.samples.get(round)?.cost));
            costs.min_by(f64::total_cmp).map(|best| sample.cost / best)
        });
        median(ratios.collect())
    }

    /// The same against Pingora alone.
    fn against_pingora(&self) -> Option<f64> {
        let (ours, theirs) = (self.of("tollgate")?, self.of("pingora")?);
        let pairs = ours.samples.iter().zip(&theirs.samples);
        median(pairs.map(|(ours, theirs)| ours.cost / theirs.cost).collect())
    }

    fn is_met(&self) -> Option<bool> {
        Some(match self.scenario.target {
            Target::Ratio(target) => self.ratio("tollgate")? <= target,
            Target::Cost(target) => self.of("tollgate")?.median(|s| s.cost)? <= target,
        })
    }
}

impl Figures {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(of).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Says what is about to be measured, and where.
pub(crate) fn environment(scenarios: &[&Scenario], rounds: usize, duration: Duration) {
    println!(
        "{} scenarios, {rounds} rounds of {:.1} s for each proxy, on {}",
        scenarios.len(),
        duration.as_secs_f64().max(1.0),
        machine()
    );
    for name in NAMES {
        match missing(name) {
            Some(why) => println!("  {why}"),
            None => println!("  {}", version(name)),
        }
    }
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
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok();
        let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    };
    match name {
        "nginx" | "haproxy" => said(name, "-v"),
        "tollgate" => concat!("tollgate ", env!("CARGO_PKG_VERSION")).to_owned(),
        _ => "pingora (PINGORA_PEER)".to_owned(),
    }
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| scenario | unit | nginx | HAProxy | Tollgate | Pingora | ratio | target | of Pingora |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        let Scenario { title, unit, target, .. } = outcome.scenario;
        let _ = write!(text, "| {title} | {unit} |");
        for name in NAMES {
            let cost = outcome.of(name).and_then(|figures| figures.median(|s| s.cost));
            let _ = write!(text, " {} |", shown(cost));
        }
        let target = match target {
            Target::Ratio(target) => format!("≤ {target:.2}"),
            Target::Cost(target) => format!("≤ {target} {unit}"),
        };
        let mark = match outcome.is_met() {
            Some(true) => "✓",
            Some(false) => "✗",
            None => "",
        };
        let (ratio, pingora) = (shown(outcome.ratio("tollgate")), outcome.against_pingora());
        let _ = writeln!(text, " **{ratio}** | {target} {mark} | {} |", shown(pingora));
    }
    text
}

fn details(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| scenario | proxy | a second | p50 µs | p99 µs | p99.9 µs | resident MiB |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        for figures in &outcome.figures {
            let rate = figures.median(|s| s.load.rate).filter(|rate| *rate > 0.0);
            let rate = rate.map_or_else(String::new, |rate| format!("{rate:.0}"));
            let latency = |index: usize| {
                let value = figures.median(|s| s.load.latency[index]).filter(|v| *v > 0.0);
                value.map_or_else(String::new, |value| format!("{value:.0}"))
            };
            let resident = figures.median(|s| s.resident_kib as f64 / 1024.0);
            let _ = writeln!(
                text,
                "| {} | {} | {rate} | {} | {} | {} | {} |",
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
    println!("\n{}", table(outcomes));
    println!("{}", details(outcomes));
}

/// Writes table and chart below `target/`.
pub(crate) fn write(outcomes: &[Outcome]) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/side_by_side");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("table.md"), format!("{}\n{}", table(outcomes), details(outcomes)))?;
    fs::write(folder.join("chart.svg"), chart(outcomes))?;
    Ok(folder)
}

/// Puts table and chart where docs/performance.md shows them.
pub(crate) fn publish(outcomes: &[Outcome]) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    fs::write(docs.join("performance.svg"), chart(outcomes))?;
    let path = docs.join("performance.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("docs/performance.md has lost its table")?;
    let (_, after) = rest.split_once(END).ok_or("docs/performance.md has lost its table")?;
    let machine = machine();
    let versions: Vec<String> =
        NAMES.iter().filter(|name| missing(name).is_none()).map(|name| version(name)).collect();
    let (table, details) = (table(outcomes), details(outcomes));
    let versions = versions.join("; ");
    let new = format!(
        "{before}{BEGIN}\n\nOn {machine}. {versions}.\n\n{table}\n\
         Throughput, latency and memory in the same run:\n\n{details}\n{END}{after}"
    );
    fs::write(&path, new)?;
    println!("written: {}", path.display());
    Ok(())
}

/// Bars of the ratios, one group for each scenario.
fn chart(outcomes: &[Outcome]) -> String {
    const LEFT: f64 = 270.0;
    const SCALE: f64 = 160.0;
    const BAR: f64 = 9.0;
    let colours = [
        ("nginx", "#3a9e5c"),
        ("haproxy", "#3b7dd8"),
        ("tollgate", "#d9480f"),
        ("pingora", "#9aa0a6"),
    ];
    let rows: Vec<&Outcome> = outcomes.iter().filter(|o| o.ratio("tollgate").is_some()).collect();
    let group = BAR * 4.0 + 12.0;
    let height = 60.0 + group * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Cost as a multiple of the better of nginx and HAProxy: shorter is better</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (index, (name, colour)) in colours.iter().enumerate() {
        let x = LEFT + 110.0 * index as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"22\">{name}</text>",
            x + 18.0
        );
    }
    for (row, outcome) in rows.iter().enumerate() {
        let top = 44.0 + group * row as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            top + group / 2.0 - 4.0,
            outcome.scenario.title.replace('&', "&amp;")
        );
        for (index, (name, colour)) in colours.iter().enumerate() {
            let Some(ratio) = outcome.ratio(name) else { continue };
            let (y, width) = (top + BAR * index as f64, (ratio * SCALE).min(520.0));
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" \
                 fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\" font-size=\"9\">{ratio:.2}</text>",
                BAR - 1.0,
                LEFT + width + 4.0,
                y + BAR - 2.0
            );
        }
    }
    let x = LEFT + SCALE;
    let _ = write!(
        svg,
        "<line x1=\"{x}\" y1=\"36\" x2=\"{x}\" y2=\"{}\" stroke=\"#000\" \
         stroke-dasharray=\"3 3\"/>\n</svg>\n",
        height - 8.0
    );
    svg
}
