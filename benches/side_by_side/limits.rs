//! How many files may be open.

use std::fs;
use std::process::{Command, Stdio};

/// Raises this program's limit, and that of all it starts, as far as it may be.
pub(crate) fn raise() {
    let Some((_, hard)) = limit() else { return };
    // If it fails, scenarios that need more say so.
    let _as_it_was = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--nofile={hard}:{hard}")])
        .stderr(Stdio::null())
        .status();
}

/// How many files this program may have open.
pub(crate) fn open_files() -> usize {
    limit().map_or(usize::MAX, |(soft, _)| soft)
}

fn limit() -> Option<(usize, usize)> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    let mut numbers = line.split_whitespace().skip(3).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
