//! Notices to the service manager.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// Where the manager hears.
const SOCKET: &str = "NOTIFY_SOCKET";

/// How long a manager that does not listen holds a notice up.
const UNHEARD: Duration = Duration::from_millis(500);

/// Tells the service manager what the service does. Cheap to clone. A notice that
/// cannot be sent is logged, and never fails anything.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    to: Option<Arc<Manager>>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// The manager that `NOTIFY_SOCKET` names; silent if it names none.
    #[must_use]
    pub fn from_env() -> Self {
        let Some(name) = env::var_os(SOCKET).filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match Manager::at(&name) {
            Ok(manager) => Self { to: Some(Arc::new(manager)) },
            Err(error) => {
                tracing::warn!(%error, ?name, "the service manager cannot be told anything");
                Self::default()
            }
        }
    }

    /// Whether somebody listens.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// The service serves: it has started, or what was reloaded is in force.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is being read anew. [`Notifier::ready`] has to follow, also
    /// if the old one stays in force.
    pub fn reloading(&self) {
        // By this systemd tells the reload that it asked for from an earlier one.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The service ends. Not to be said by a process that has a successor: the
    /// manager would take it for the service's end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Another process is the service's main one from now on. The manager believes
    /// only the main process, so it has to be said by that, once its successor serves.
    pub fn main_pid(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
    }

    /// A line for those who ask how the service is.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", status.replace(['\n', '\r'], " ")));
    }

    /// What is under way, a start, a reload or an end, may take so much longer from
    /// now.
    pub fn extend_timeout(&self, by: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, notice: &str) {
        let Some(manager) = &self.to else { return };
        if let Err(error) = manager.socket.send_to_addr(notice.as_bytes(), &manager.address) {
            tracing::warn!(%error, notice, "the service manager cannot be told");
        }
    }
}

impl Manager {
    fn at(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            [b'@', name @ ..] => abstract_address(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "no Unix socket's name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(UNHEARD))?;
        Ok(Self { socket, address })
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "names without a file are Linux's"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt as _;

    fn notifier(name: &OsStr) -> Notifier {
        Notifier { to: Some(Arc::new(Manager::at(name).unwrap())) }
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn notices_are_as_systemd_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = notifier(path.as_os_str());
        assert!(notifier.is_heard());
        notifier.ready();
        assert_eq!(heard(&manager), "READY=1");
        notifier.stopping();
        assert_eq!(heard(&manager), "STOPPING=1");
        notifier.main_pid(77);
        assert_eq!(heard(&manager), "MAINPID=77");
        notifier.status("draining\nfor 3 s");
        assert_eq!(heard(&manager), "STATUS=draining for 3 s");
        notifier.extend_timeout(Duration::from_millis(1500));
        assert_eq!(heard(&manager), "EXTEND_TIMEOUT_USEC=1500000");
        notifier.alive();
        assert_eq!(heard(&manager), "WATCHDOG=1");
    }

    #[test]
    fn a_reload_says_when_it_began() {
        let now = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            now.tv_sec * 1_000_000 + now.tv_nsec / 1000
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let before = now();
        notifier(path.as_os_str()).reloading();
        let after = now();
        let notice = heard(&manager);
        let micros = notice.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!((before..=after).contains(&micros.parse().unwrap()), "{notice}");
    }

    #[test]
    fn a_socket_may_have_a_name_without_a_file() {
        let name = format!("tollgate-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        notifier(OsStr::new(&format!("@{name}"))).ready();
        assert_eq!(heard(&manager), "READY=1");
    }

    #[test]
    fn a_manager_that_is_gone_fails_nothing() {
        let folder = tempfile::tempdir().unwrap();
        notifier(folder.path().join("gone").as_os_str()).ready();
        assert!(Manager::at(OsStr::new("vsock:2:1234")).is_err());
        assert!(!Notifier::default().is_heard());
    }
}
