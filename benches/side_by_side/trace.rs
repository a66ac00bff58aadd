//! System calls for each request, counted by strace. Tracing slows a proxy down
//! many times over, so that this is a run of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::load::Load;
use crate::process::{Process, is_installed};

pub(crate) fn is_possible() -> bool {
    is_installed("strace")
}

/// System calls of a proxy under a load, for each thing done.
pub(crate) fn system_calls(
    process: &Process,
    dir: &Path,
    load: impl FnOnce() -> Result<Load>,
) -> Result<f64> {
    let summary = dir.join("calls");
    let mut command = Command::new("timeout");
    command.args(["-s", "INT", "30", "strace", "-c", "-f", "-o"]).arg(&summary);
    for pid in process.members() {
        command.args(["-p", &pid.to_string()]);
    }
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut strace = silent.spawn()?;
    // Until it has taken hold of every thread.
    std::thread::sleep(Duration::from_millis(500));
    let load = load();
    // `timeout` hands the signal on, and strace lets go of the proxy.
    Command::new("kill").args(["-INT", &strace.id().to_string()]).status()?;
    strace.wait()?;
    let load = load?;
    let text = fs::read_to_string(&summary)?;
    // % time, seconds, µs a call, calls, errors if any, name.
    let total = text.lines().find(|line| line.trim_end().ends_with(" total"));
    let calls =
        total.and_then(|line| line.split_whitespace().nth(3)).ok_or("strace said nothing")?;
    if load.done == 0 {
        return Err("nothing was answered".into());
    }
    Ok(calls.parse::<f64>()? / load.done as f64)
}
