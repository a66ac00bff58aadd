//! A proxy in this process, on ports that the system chose.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tollgate::{Ended, Proxy};

/// What a test's proxy is configured with.
#[derive(Default)]
pub struct Setup {
    server: String,
    listener: String,
    rest: String,
    json: bool,
}

/// A proxy that serves until it is dropped or stopped.
pub struct Running {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub dir: TempDir,
    pub listeners: tollgate::accept::Listeners,
    pub control: tollgate::Control,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Ended>>,
}

impl Setup {
    /// A proxy with these upstreams and routes.
    pub fn new(rest: impl Into<String>) -> Self {
        Self { rest: rest.into(), ..Self::default() }
    }

    /// One route that forwards everything to this origin.
    pub fn forwarding_to(origin: impl std::fmt::Display) -> Self {
        Self::new(forward_all(&origin, ""))
    }

    /// The same, with more lines in the upstream's table.
    pub fn forwarding_with(origin: impl std::fmt::Display, upstream: &str) -> Self {
        Self::new(forward_all(&origin, upstream))
    }

    /// Adds lines to `[server]`.
    pub fn server(mut self, lines: &str) -> Self {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Adds lines to the `[[listener]]`, and tables below it.
    pub fn listener(mut self, lines: &str) -> Self {
        self.listener.push_str(lines);
        self.listener.push('\n');
        self
    }

    /// Adds lines at the end: to the last table, or tables of their own.
    pub fn and(mut self, lines: &str) -> Self {
        self.rest.push_str(lines);
        self.rest.push('\n');
        self
    }

    /// Writes the access log as JSON.
    pub fn json_log(mut self) -> Self {
        self.json = true;
        self
    }

    pub fn toml(&self) -> String {
        let Self { server, listener, rest, json } = self;
        let format = if *json { "json" } else { "text" };
        let workers = if server.contains("workers") { "" } else { "workers = 1" };
        format!(
            "[server]\n{workers}\n{server}\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [access_log]\noutput = \"access.log\"\nformat = \"{format}\"\n\
             [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n{listener}\n{rest}\n"
        )
    }

    pub fn start(self) -> Running {
        self.start_in(TempDir::new().unwrap())
    }

    /// Starts with files that are in `dir` already.
    pub fn start_in(self, dir: TempDir) -> Running {
        let (toml, path) = (self.toml(), dir.path().join("config.toml"));
        std::fs::write(&path, &toml).unwrap();
        let proxy = Proxy::from_config(&path).unwrap_or_else(|error| panic!("{toml}\n{error}"));
        let bound = proxy.bind().unwrap();
        let address = bound.addresses("public")[0];
        let admin = bound.admin_address().unwrap();
        let listeners = bound.listeners().clone();
        let control = bound.control().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime
                .block_on(bound.run(async {
                    let _dropped = stopped.await;
                }))
                .unwrap()
        });
        Running { address, admin, dir, listeners, control, stop: Some(stop), thread: Some(thread) }
    }
}

impl Running {
    /// Has other words in the configuration file.
    pub fn write(&self, setup: &Setup) {
        let (new, path) = (self.dir.path().join("new"), self.dir.path().join("config.toml"));
        std::fs::write(&new, setup.toml()).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Begins the drain.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ended = stop.send(());
        }
    }

    /// Waits for the end of a drain that has begun.
    pub async fn ended(&mut self) -> Ended {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
    }

    /// Stops, and waits for the end.
    pub async fn stop(mut self) -> Ended {
        self.begin_stop();
        self.ended().await
    }

    /// The lines of the access log, once there are as many as this.
    pub async fn log_lines(&self, count: usize) -> Vec<String> {
        let path = self.dir.path().join("access.log");
        let read = |path: &Path| -> Vec<String> {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        super::eventually("the access log has its lines", async || read(&path).len() >= count)
            .await;
        read(&path)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

pub fn forward_all(origin: &impl std::fmt::Display, upstream: &str) -> String {
    format!(
        "[[route]]\nname = \"all\"\nupstream = \"origin\"\n\
         [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n{upstream}\n"
    )
}
