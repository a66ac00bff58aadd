//! A real Redis, on a port and in a folder of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::AbortHandle;

use super::certs::Authority;

/// A Redis that runs until it is dropped.
pub struct Redis {
    pub port: u16,
    pub dir: TempDir,
    child: Child,
    pub how: How,
}

/// How a Redis is to be.
#[derive(Clone, Default)]
pub struct How {
    /// What it stores outlives a restart.
    pub durable: bool,
    pub password: Option<&'static str>,
    /// TLS only, by a certificate of this authority for `localhost`.
    pub tls: Option<Arc<Authority>>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// It is a sentinel, configured so.
    pub sentinel: Option<String>,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_as(How::default())
    }

    pub fn start_as(how: How) -> Self {
        let dir = TempDir::new().unwrap();
        if let Some(authority) = &how.tls {
            authority.write(dir.path());
            authority.sign(dir.path(), "redis", &["localhost"]);
        }
        // Another process may take a port before Redis does, and many may at once.
        for attempt in 0..20 {
            let port = free_port();
            if let Some(child) = spawn(port, dir.path(), &how) {
                return Self { port, dir, child, how };
            }
            std::thread::sleep(Duration::from_millis(50 * attempt));
        }
        panic!("redis-server does not start");
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub fn url(&self) -> String {
        match self.how.tls {
            Some(_) => format!("rediss://localhost:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Ends it at once, as by SIGKILL.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        let started = (0..50).find_map(|attempt| {
            std::thread::sleep(Duration::from_millis(10 * attempt));
            spawn(self.port, self.dir.path(), &self.how)
        });
        self.child = started.unwrap();
    }

    /// It answers nobody any more, and its connections stay.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// What it answers to a command, as it came; not over TLS.
    pub fn ask<P: AsRef<[u8]>>(&self, parts: impl IntoIterator<Item = P>) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut sent = Vec::new();
        if let Some(password) = self.how.password {
            encode(&mut sent, [b"AUTH".as_slice(), password.as_bytes()]);
        }
        encode(&mut sent, parts);
        // A sentinel has no ECHO.
        encode(&mut sent, ["PING", "over"]);
        stream.write_all(&sent).unwrap();
        let mut reader = BufReader::new(stream);
        if self.how.password.is_some() {
            reader.read_line(&mut String::new()).unwrap();
        }
        let mut answer = Vec::new();
        while !answer.ends_with(b"$4\r\nover\r\n") {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        answer.truncate(answer.len() - b"$4\r\nover\r\n".len());
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn encode<P: AsRef<[u8]>>(sent: &mut Vec<u8>, parts: impl IntoIterator<Item = P>) {
    let parts: Vec<P> = parts.into_iter().collect();
    write!(sent, "*{}\r\n", parts.len()).unwrap();
    for part in parts {
        let part = part.as_ref();
        write!(sent, "${}\r\n", part.len()).unwrap();
        sent.extend_from_slice(part);
        sent.extend_from_slice(b"\r\n");
    }
}

/// A port that nobody has at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts it, and waits until it says that it is ready; `None` if it ends before.
fn spawn(port: u16, dir: &Path, how: &How) -> Option<Child> {
    let mut command = Command::new("redis-server");
    let port = port.to_string();
    if let Some(lines) = &how.sentinel {
        let file = dir.join("sentinel.conf");
        if !file.exists() {
            std::fs::write(&file, lines).unwrap();
        }
        command.arg("sentinel.conf").arg("--sentinel");
    }
    command.current_dir(dir).args(["--bind", "127.0.0.1", "--daemonize", "no"]);
    if how.sentinel.is_none() {
        let durable = if how.durable { "yes" } else { "no" };
        command.args(["--save", "", "--appendonly", durable]);
    }
    if let Some(password) = how.password {
        command.args(["--requirepass", password]);
    }
    if how.tls.is_some() {
        command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
        command.args(["--tls-cert-file", "redis.crt", "--tls-key-file", "redis.key"]);
        command.args(["--tls-ca-cert-file", "ca.pem"]);
    } else {
        command.args(["--port", &port]);
    }
    command.args(&how.arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("redis-server cannot be started ({error}): these tests need it installed")
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut line, mut said) = (String::new(), String::new());
    while lines.read_line(&mut line).unwrap() > 0 {
        if line.contains("Ready to accept connections") || line.contains("+monitor master") {
            // What it says later is of no interest, but has to go somewhere.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return Some(child);
        }
        said.push_str(&line);
        line.clear();
    }
    child.wait().unwrap();
    eprintln!("redis-server ended: {said}");
    None
}

/// A way to a Redis, or to anything, that can be cut.
pub struct Way {
    pub address: SocketAddr,
    cut: Arc<Mutex<Vec<AbortHandle>>>,
    open: tokio::sync::watch::Sender<bool>,
    held: tokio::sync::watch::Sender<bool>,
}

impl Way {
    pub async fn to(address: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cut = Arc::new(Mutex::new(Vec::new()));
        let (open, is_open) = tokio::sync::watch::channel(true);
        let (held, is_held) = tokio::sync::watch::channel(false);
        let way = Self { address: listener.local_addr().unwrap(), cut: cut.clone(), open, held };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if !*is_open.borrow() {
                    continue;
                }
                let is_held = is_held.clone();
                let going = tokio::spawn(async move {
                    let Ok(far) = tokio::net::TcpStream::connect(address).await else { return };
                    let ((from_near, to_near), (from_far, to_far)) =
                        (near.into_split(), far.into_split());
                    tokio::select! {
                        () = relay(from_near, to_far, is_held.clone()) => {}
                        () = relay(from_far, to_near, is_held) => {}
                    }
                });
                cut.lock().push(going.abort_handle());
            }
        });
        way
    }

    /// Ends every connection, and takes no more.
    pub fn cut(&self) {
        self.open.send_replace(false);
        self.cut.lock().drain(..).for_each(|going| going.abort());
    }

    pub fn mend(&self) {
        self.open.send_replace(true);
    }

    /// Passes nothing on meanwhile, and ends nothing.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

async fn relay(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_held: tokio::sync::watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        drop(is_held.wait_for(|held| !held).await);
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
