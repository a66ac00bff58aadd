//! The proxy as a process of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::api;
use crate::support::eventually;

/// A `tollgate run` in a folder of its own, and whoever takes its place.
pub struct Process {
    pub dir: TempDir,
    pub public: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    /// Everybody who has served; the first is the child.
    pids: Vec<u32>,
}

/// What a command has come to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// What was printed, of a command that went well.
    pub fn ok(self) -> String {
        assert_eq!((self.code, &*self.err), (Some(0), ""), "{self:?}");
        self.out
    }
}

/// An address that nobody else is likely to take meanwhile.
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Process {
    /// Starts in a folder with `server` and `rest` around two listeners, `public` and
    /// the admin's, and waits until it is ready.
    pub async fn start(dir: TempDir, server: &str, rest: &str) -> Self {
        let (public, admin) = (free_address(), free_address());
        std::fs::write(dir.path().join("config.toml"), toml(public, admin, server, rest)).unwrap();
        let log = File::create(dir.path().join("proxy.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["run", "-c", "config.toml"])
            .current_dir(dir.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let pids = vec![child.id()];
        let process = Self { dir, public, admin, child, pids };
        eventually("it is ready", async || process.phase().await == Some("ready".into())).await;
        process
    }

    /// Has other words in the configuration file; nothing reads them yet.
    pub fn write(&self, server: &str, rest: &str) {
        let toml = toml(self.public, self.admin, server, rest);
        std::fs::write(self.dir.path().join("new"), toml).unwrap();
        std::fs::rename(self.path("new"), self.path("config.toml")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the proxy has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("proxy.log")).unwrap()).into_owned()
    }

    /// Runs another command in the folder.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env_remove("TOLLGATE_ADMIN_TOKEN")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// `/api/status`; nothing if nobody is there.
    pub async fn status(&self) -> Value {
        if tokio::net::TcpStream::connect(self.admin).await.is_err() {
            return Value::Null;
        }
        api(self.admin, "GET", "/api/status", "").await.1
    }

    pub async fn phase(&self) -> Option<String> {
        self.status().await["state"].as_str().map(str::to_owned)
    }

    /// The last that is known to serve.
    pub fn pid(&self) -> u32 {
        *self.pids.last().unwrap()
    }

    /// Waits until another serves than did; gives both.
    pub async fn succeeded(&mut self) -> (u32, u32) {
        let old = self.pid();
        let mut new = old;
        eventually("another process serves", async || {
            let pid = self.status().await["pid"].as_u64();
            new = pid.map_or(old, |pid| u32::try_from(pid).unwrap());
            new != old
        })
        .await;
        self.pids.push(new);
        (old, new)
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the end of the first process.
    pub async fn first_ended(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the first process ends", async || {
            let status = self.child.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        })
        .await;
        code
    }

    /// The processes that this one has started and that still run.
    pub fn started_by(&self, pid: u32) -> Vec<u32> {
        let parent = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut rest = stat.rsplit(") ").next()?.split(' ');
            let running = rest.next()? != "Z";
            rest.next()?.parse::<u32>().ok().filter(|_| running)
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|child| parent(*child) == Some(pid))
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for pid in self.pids.split_off(1) {
            if runs(pid, self.dir.path()) {
                signal(pid, "KILL");
            }
        }
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Whether this is a process of ours still: numbers are used again.
pub fn runs(pid: u32, dir: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    std::fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd == dir)
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success(), "process {pid} cannot be sent {name}");
}

fn toml(public: SocketAddr, admin: SocketAddr, server: &str, rest: &str) -> String {
    format!(
        "[server]\nworkers = 1\nreload_on_change = false\n{server}\n\
         [admin]\naddress = \"{admin}\"\n[access_log]\noutput = \"access.log\"\n\
         [[listener]]\nname = \"public\"\naddress = \"{public}\"\n{rest}\n"
    )
}
