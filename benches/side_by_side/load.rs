//! Load from outside programs, and what they say of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::process::LOAD_CORE;

/// What a load run brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Requests, or connections, that were answered.
    pub(crate) done: u64,
    /// How many a second.
    pub(crate) rate: f64,
    /// Latency in microseconds: p50, p99, p99.9; zero where it was not measured.
    pub(crate) latency: [f64; 3],
}

/// Runs a command on the load core and gives what it printed.
pub(crate) fn output(command: &[String], patience: Duration) -> Result<String> {
    let bound = (patience + Duration::from_secs(20)).as_secs().to_string();
    let output = Command::new("taskset")
        .args(["-c", LOAD_CORE, "timeout", &bound])
        .args(command)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {complaint}{said}", output.status).into());
    }
    Ok(said)
}

/// HTTP/1.1 as fast as it goes, with wrk.
pub(crate) fn wrk(
    url: &str,
    connections: usize,
    duration: Duration,
    more: &[String],
) -> Result<Load> {
    // wrk counts whole seconds only.
    let seconds = duration.as_secs().max(1);
    let mut command: Vec<String> = ["wrk", "-t1", "--timeout", "10s"].map(String::from).into();
    command.push(format!("-c{connections}"));
    command.push(format!("-d{seconds}s"));
    command.extend(more.iter().cloned());
    command.push(url.to_owned());
    let said = output(&command, duration)?;
    for bad in ["Non-2xx", "Socket errors"] {
        if let Some(line) = said.lines().find(|line| line.contains(bad)) {
            return Err(format!("{url}: {}", line.trim()).into());
        }
    }
    let line = |what: &str| said.lines().find(|line| line.contains(what)).unwrap_or_default();
    let done = line("requests in").split_whitespace().next().unwrap_or_default().parse()?;
    let rate = line("Requests/sec").split_whitespace().nth(1).unwrap_or_default().parse()?;
    Ok(Load { done, rate, latency: [0.0; 3] })
}

/// HTTP/2 with h2load: as fast as it goes, or so often a second on each connection.
pub(crate) fn h2load(
    url: &str,
    connections: usize,
    streams: usize,
    rate: Option<usize>,
    duration: Duration,
) -> Result<Load> {
    let mut command: Vec<String> = vec!["h2load".to_owned(), "-t1".to_owned()];
    command.push(format!("-c{connections}"));
    command.push(format!("-m{streams}"));
    command.push(format!("-D{}", duration.as_secs().max(1)));
    command.extend(rate.map(|rate| format!("--rps={rate}")));
    command.push(url.to_owned());
    let said = output(&command, duration)?;
    let number = |line: &str, before: &str| -> Option<f64> {
        let line = said.lines().find(|text| text.starts_with(line))?;
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|word| *word == before)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    let done = number("status codes:", "2xx").ok_or("h2load said nothing of statuses")?;
    let rate = number("finished in", "req/s").ok_or("h2load said nothing of its rate")?;
    let failed = number("requests:", "failed").unwrap_or(0.0);
    if done == 0.0 || failed > 0.0 {
        return Err(format!("{url}: {failed} requests failed:\n{said}").into());
    }
    // Ends of streams that were cut off by the clock do not count.
    Ok(Load { done: done as u64, rate, latency: [0.0; 3] })
}
