//! What is counted, and what went wrong, when and for whom.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How many failures are told in full; the others are counted.
const TOLD: usize = 12;

/// How many lines of the proxy's log a failure is told with.
const LINES: usize = 25;

/// Counts for everybody.
pub struct Tally {
    begun: Instant,
    /// What the proxy says of itself.
    log: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    phases: Vec<Phase>,
    kinds: BTreeMap<&'static str, Kind>,
    failures: Vec<Failure>,
    failed: usize,
}

#[derive(Default)]
struct Phase {
    name: String,
    micros: Vec<u32>,
    failed: usize,
    notes: String,
}

/// What clients of one kind did.
#[derive(Default)]
struct Kind {
    micros: Vec<u32>,
    failed: usize,
    events: BTreeMap<&'static str, usize>,
}

struct Failure {
    at: Duration,
    phase: String,
    who: String,
    request: String,
    what: String,
    log: String,
}

impl Tally {
    pub fn new(log: PathBuf) -> Self {
        Self { begun: Instant::now(), log, inner: Mutex::default() }
    }

    /// Everything belongs to this phase from now on.
    pub fn phase(&self, name: &str) {
        println!("{:7.2}s  {name}", self.begun.elapsed().as_secs_f32());
        self.inner.lock().phases.push(Phase { name: name.to_owned(), ..Phase::default() });
    }

    /// Adds a figure to the current phase.
    pub fn note(&self, note: &str) {
        if let Some(phase) = self.inner.lock().phases.last_mut() {
            let between = if phase.notes.is_empty() { "" } else { ", " };
            let _infallible = write!(phase.notes, "{between}{note}");
        }
    }

    /// A request was answered as it should be.
    pub fn done(&self, kind: &'static str, since: Instant) {
        let micros = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut inner = self.inner.lock();
        inner.kinds.entry(kind).or_default().micros.push(micros);
        if let Some(phase) = inner.phases.last_mut() {
            phase.micros.push(micros);
        }
    }

    /// Something that lasts came to its end as it should.
    pub fn lasted(&self, kind: &'static str, since: Instant) {
        let micros = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.inner.lock().kinds.entry(kind).or_default().micros.push(micros);
    }

    /// Something happened that may.
    pub fn event(&self, kind: &'static str, event: &'static str) {
        *self.inner.lock().kinds.entry(kind).or_default().events.entry(event).or_default() += 1;
    }

    /// Something happened that must not.
    pub fn failed(&self, kind: &'static str, who: &str, request: &str, what: &str) {
        let at = self.begun.elapsed();
        let mut inner = self.inner.lock();
        inner.failed += 1;
        inner.kinds.entry(kind).or_default().failed += 1;
        let phase = inner.phases.last_mut().map(|phase| {
            phase.failed += 1;
            phase.name.clone()
        });
        if what.starts_with("connecting:") {
            let events = &mut inner.kinds.entry(kind).or_default().events;
            *events.entry("unreachable").or_default() += 1;
        }
        let unreachable = |failure: &&Failure| failure.what.starts_with("connecting:");
        let told = inner.failures.len();
        // One reason is not told so often that there is no room for another.
        let alike = inner.failures.iter().filter(unreachable).count();
        if told >= TOLD || what.starts_with("connecting:") && alike >= TOLD / 2 {
            return;
        }
        // The log of a whole minute is still the same one; once is enough.
        let log = if inner.failures.len() < 3 { self.last_words() } else { String::new() };
        let phase = phase.unwrap_or_default();
        let (who, request, what) = (who.to_owned(), request.to_owned(), what.to_owned());
        inner.failures.push(Failure { at, phase, who, request, what, log });
    }

    pub fn failures(&self) -> usize {
        self.inner.lock().failed
    }

    /// How many requests of a kind failed.
    pub fn failures_of(&self, kind: &str) -> usize {
        self.inner.lock().kinds.get(kind).map_or(0, |kind| kind.failed)
    }

    /// How often something happened, to all kinds together.
    pub fn events(&self, event: &str) -> usize {
        self.inner.lock().kinds.values().filter_map(|kind| kind.events.get(event)).sum()
    }

    /// How many requests of one kind were answered.
    pub fn answered_by(&self, kind: &str) -> usize {
        self.inner.lock().kinds.get(kind).map_or(0, |kind| kind.micros.len())
    }

    /// The end of the proxy's log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Everything that was counted, as tables.
    pub fn table(&self) -> String {
        let mut inner = self.inner.lock();
        let mut table = String::new();
        let _infallible = writeln!(
            table,
            "\n{:<14}{:>9}{:>8}{:>10}{:>10}{:>10}  beside that",
            "clients", "answered", "failed", "p50 ms", "p99 ms", "max ms"
        );
        for (name, kind) in &mut inner.kinds {
            let events: Vec<String> =
                kind.events.iter().map(|(event, count)| format!("{count} {event}")).collect();
            row(&mut table, name, &mut kind.micros, kind.failed, &events.join(", "));
        }
        let _infallible = writeln!(table, "phases");
        for phase in &mut inner.phases {
            row(&mut table, &phase.name, &mut phase.micros, phase.failed, &phase.notes);
        }
        table
    }

    /// Tells of everything that went wrong.
    pub fn report(&self) -> String {
        let inner = self.inner.lock();
        let mut report = format!("{} failed; the first of them:\n", inner.failed);
        for failure in &inner.failures {
            let Failure { at, phase, who, request, what, log } = failure;
            let at = at.as_secs_f32();
            let _infallible =
                writeln!(report, "{at:7.3}s in \"{phase}\": {who}, {request}: {what}");
            if !log.is_empty() {
                let _infallible = writeln!(report, "    the proxy's log then:");
                for line in log.lines() {
                    let _infallible = writeln!(report, "    | {line}");
                }
            }
        }
        report
    }
}

fn row(table: &mut String, name: &str, micros: &mut [u32], failed: usize, beside: &str) {
    micros.sort_unstable();
    let millis = |share: usize| {
        let at = (micros.len() * share / 1000).min(micros.len().saturating_sub(1));
        f64::from(micros.get(at).copied().unwrap_or_default()) / 1000.0
    };
    let _infallible = writeln!(
        table,
        "{name:<14}{:>9}{failed:>8}{:>10.2}{:>10.2}{:>10.2}  {beside}",
        micros.len(),
        millis(500),
        millis(990),
        millis(1000),
    );
}
