//! Processes of our own making: pinned, accounted for, and ended.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::Result;

/// Where the proxy runs, and where origin and load do.
pub(crate) const PROXY_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";

/// A process group that ends with this.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` on these cores; what it says goes to `log`.
    pub(crate) fn start(cores: &str, command: &[String], log: &Path) -> Result<Self> {
        let out = File::create(log)?;
        let child = Command::new("taskset")
            .args(["-c", cores])
            .args(command)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}"))?;
        Ok(Self { child })
    }

    /// Waits until something listens there.
    pub(crate) fn listening(&mut self, address: SocketAddr, log: &Path) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(30);
        while Instant::now() < patience {
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("it ended with {status}: {said}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("nothing listens on {address}").into())
    }

    fn group(&self) -> u32 {
        self.child.id()
    }

    /// Every process of the group.
    pub(crate) fn members(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let group = self.group().to_string();
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // After the name: state, parent, group.
            let group_of = stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(3));
            group_of == Some(&group)
        })
        .collect()
    }

    /// CPU time that the group has used, user and system, in nanoseconds.
    pub(crate) fn cpu_nanos(&self) -> u64 {
        self.thread_nanos().values().sum()
    }

    /// The same for each of its threads, by the thread's number.
    pub(crate) fn thread_nanos(&self) -> HashMap<OsString, u64> {
        let threads = self.members().into_iter().filter_map(|pid| {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            Some(threads.flatten().filter_map(|thread| {
                let schedule = fs::read_to_string(thread.path().join("schedstat")).ok()?;
                Some((thread.file_name(), schedule.split(' ').next()?.parse().ok()?))
            }))
        });
        threads.flatten().collect()
    }

    /// The share of the busiest thread since then, as a multiple of the mean of
    /// the busiest `workers`: they are the workers, since whatever else runs in a
    /// proxy has next to nothing to do.
    pub(crate) fn skew_since(
        &self,
        before: &HashMap<OsString, u64>,
        workers: usize,
    ) -> Result<f64> {
        let now = self.thread_nanos();
        let used = |(thread, now): (&OsString, &u64)| now - before.get(thread).unwrap_or(&0);
        let mut used: Vec<u64> = now.iter().map(used).collect();
        used.sort_unstable_by(|one, other| other.cmp(one));
        used.truncate(workers);
        let mean = used.iter().sum::<u64>() as f64 / workers as f64;
        Ok(*used.first().ok_or("it has no threads")? as f64 / mean)
    }

    /// How many files its processes have open.
    pub(crate) fn open_files(&self) -> usize {
        let of_process =
            |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.members().into_iter().map(of_process).sum()
    }

    /// Memory that is resident, shared pages shared out, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let of_process = |pid: u32| -> Option<u64> {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        self.members().into_iter().filter_map(of_process).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = format!("-{}", self.group());
        let signal = |name: &str| {
            let _gone =
                Command::new("kill").args([name, "--", &group]).stderr(Stdio::null()).status();
        };
        signal("-TERM");
        let patience = Instant::now() + Duration::from_secs(2);
        while Instant::now() < patience && !self.members().is_empty() {
            let _reaped = self.child.try_wait();
            std::thread::sleep(Duration::from_millis(10));
        }
        signal("-KILL");
        let _reaped = self.child.wait();
    }
}

/// A loopback address that is free at the moment.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Whether a program can be found.
pub(crate) fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let known = std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]);
    known.map(|folder| folder.join(program)).any(|path| path.is_file())
}
