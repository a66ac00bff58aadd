//! The proxy as a process of its own, and its successors.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::wire::PATIENCE;

/// A `tollgate run`, by whatever process it is served at the time.
pub struct Process {
    dir: PathBuf,
    children: Vec<Child>,
    /// Everybody who served, the last one last.
    pids: Vec<u32>,
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Holds {
    /// Resident memory, in KiB.
    pub resident: u64,
    pub files: usize,
    pub threads: usize,
    /// As its metrics count them.
    pub tasks: usize,
}

/// What is to be run: the command as it was built with these tests, or that of
/// `TOLLGATE_BINARY`.
pub fn built() -> PathBuf {
    let named = std::env::var_os("TOLLGATE_BINARY").map(PathBuf::from);
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_tollgate").into())
}

/// Puts a copy of a program where the proxy's is, in the place of what is there.
///
/// Copied by another process: a child that some other test starts could otherwise
/// hold the copy open for writing, and it could not be run.
pub fn install(program: &Path, dir: &Path) {
    let new = dir.join("tollgate.new");
    assert!(Command::new("cp").arg(program).arg(&new).status().unwrap().success());
    std::fs::rename(new, dir.join("tollgate")).unwrap();
}

impl Process {
    /// Runs the command that is installed in `dir` with the configuration there.
    pub fn start(dir: &Path) -> Self {
        let dir = dir.canonicalize().unwrap();
        let mut process = Self { dir, children: Vec::new(), pids: Vec::new() };
        process.start_another();
        process
    }

    /// Runs it once more.
    pub fn start_another(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.join("proxy.log"));
        let log = log.unwrap();
        let child = Command::new(self.dir.join("tollgate"))
            .args(["run", "-c", "config.toml"])
            .current_dir(&self.dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.pids.push(child.id());
        self.children.push(child);
    }

    pub fn pid(&self) -> u32 {
        self.pids.last().copied().unwrap_or_default()
    }

    /// Another process serves from now on.
    pub fn succeeded_by(&mut self, pid: u32) {
        self.pids.push(pid);
    }

    /// Runs a command of the same program, and gives what it printed.
    pub async fn command(&self, arguments: &[&str]) -> String {
        let output = tokio::process::Command::new(built())
            .args(arguments)
            .current_dir(&self.dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        format!("{}: {}", output.status, String::from_utf8_lossy(&text))
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Whether the first process, or the last that was started here, has ended.
    pub fn has_ended(&mut self) -> bool {
        self.children.last_mut().is_none_or(|child| child.try_wait().is_ok_and(|it| it.is_some()))
    }

    /// Waits until none but the one that serves is left.
    pub async fn only_one_left(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE * 4;
        let serving = self.pid();
        while Instant::now() < deadline {
            for child in &mut self.children {
                let _reaped = child.try_wait();
            }
            if self.pids.iter().all(|pid| *pid == serving || !self.runs(*pid)) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Tells it to end, and waits until it has.
    pub async fn stop(&mut self) {
        let pid = self.pid();
        signal(pid, "TERM");
        let deadline = Instant::now() + PATIENCE * 4;
        while self.runs(pid) {
            assert!(Instant::now() < deadline, "process {pid} does not end");
            for child in &mut self.children {
                let _reaped = child.try_wait();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether this is still a process of ours: numbers are used again.
    fn runs(&self, pid: u32) -> bool {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let ended = std::fs::read_to_string(proc.join("stat")).map_or(true, |stat| {
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
        });
        !ended && std::fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd == self.dir)
    }

    /// The most resident memory that it ever had, in KiB.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What the one that serves holds; it counts its tasks itself.
    pub fn holds(&self, tasks: usize) -> Holds {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()));
        let status = std::fs::read_to_string(proc.join("status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        let count = |what: &str| std::fs::read_dir(proc.join(what)).map_or(0, Iterator::count);
        let (files, threads) = (count("fd"), count("task"));
        Holds { resident: resident.unwrap_or_default(), files, threads, tasks }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A successor may not be known yet; all of them run in this folder.
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|pid| self.runs(*pid)) {
                let _gone = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            }
        }
        for child in &mut self.children {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl Holds {
    /// The lower of each figure.
    pub fn or_less(self, other: Self) -> Self {
        Self {
            resident: self.resident.min(other.resident),
            files: self.files.min(other.files),
            threads: self.threads.min(other.threads),
            tasks: self.tasks.min(other.tasks),
        }
    }

    /// Whether nothing of it is more than before, but for `slack` KiB of memory.
    pub fn is_within(&self, before: Self, slack: u64) -> bool {
        self.resident <= before.resident + slack
            && self.files <= before.files
            && self.threads <= before.threads
            && self.tasks <= before.tasks
    }
}

impl std::fmt::Display for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { resident, files, threads, tasks } = self;
        write!(f, "{resident} KiB, {files} files, {threads} threads, {tasks} tasks")
    }
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success(), "process {pid} cannot be sent {name}");
}
