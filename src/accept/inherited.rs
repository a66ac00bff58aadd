//! Sockets that another process has opened, and hands on while they listen.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{SockRef, Socket, Type};

use super::ListenAddress;
use super::sockets::BoundSocket;
use super::unix::SocketFile;
use crate::socket::tune;

/// Who has opened a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Giver {
    /// An earlier process of this proxy, which leaves it: the file of a Unix socket
    /// is removed at the end of this one, as if it had made it.
    Predecessor,
    /// A service manager, which keeps it: the file of a Unix socket is left alone.
    ServiceManager,
}

/// Sockets to be taken by whoever is to listen at their addresses, instead of
/// opening some.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Found>);

#[derive(Debug)]
struct Found {
    socket: Socket,
    address: ListenAddress,
    giver: Giver,
}

/// What was found for an address.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) sockets: Vec<BoundSocket>,
    /// Whether all of them share their address with others of this user's.
    pub(super) shared: bool,
    /// The file of a Unix socket, and who has made it.
    pub(super) file: Option<(Arc<SocketFile>, Giver)>,
}

impl Inherited {
    /// Takes these sockets over. How they listen is not changed yet.
    ///
    /// # Errors
    ///
    /// One is no socket, does not listen, or is neither of TCP nor a Unix stream
    /// socket with a path; the message says which.
    pub fn new(sockets: impl IntoIterator<Item = OwnedFd>, giver: Giver) -> io::Result<Self> {
        let found = sockets.into_iter().map(|socket| Found::new(socket, giver));
        found.collect::<io::Result<_>>().map(Self)
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// The same, where the files of the Unix sockets at `paths` were never the
    /// predecessor's either, but a service manager's.
    #[must_use]
    pub fn keeping(mut self, paths: &[PathBuf]) -> Self {
        for found in &mut self.0 {
            let kept = |path: &PathBuf| same(&found.address, &ListenAddress::Unix(path.clone()));
            if paths.iter().any(kept) {
                found.giver = Giver::ServiceManager;
            }
        }
        self
    }

    /// Where they listen.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.0.iter().map(|found| &found.address)
    }

    /// One socket of TCP at `address`, for a single thread to accept from.
    ///
    /// # Errors
    ///
    /// The system refused to have it not block.
    pub fn take_tcp(&mut self, address: SocketAddr) -> io::Result<Option<std::net::TcpListener>> {
        let address = ListenAddress::Tcp(address);
        let Some(at) = self.0.iter().position(|found| found.address == address) else {
            return Ok(None);
        };
        let socket = self.0.remove(at).socket;
        socket.set_nonblocking(true)?;
        Ok(Some(socket.into()))
    }

    /// Closes what nobody has taken, and says so.
    pub fn close(self) {
        for Found { address, giver, .. } in self.0 {
            tracing::warn!(%address, ?giver, "a socket was handed on that no listener is for; it is closed");
        }
    }

    /// All sockets at `address`, in the order they came; `None` if there is none.
    pub(super) fn take(&mut self, address: &ListenAddress) -> io::Result<Option<Taken>> {
        let there = |found: &mut Found| same(&found.address, address);
        let found: Vec<Found> = self.0.extract_if(.., there).collect();
        let Some(giver) = found.first().map(|found| found.giver) else { return Ok(None) };
        let mut taken = Taken { sockets: Vec::new(), shared: true, file: None };
        if let ListenAddress::Unix(path) = address {
            taken.file = Some((Arc::new(SocketFile::at(path)), giver));
        }
        for Found { socket, .. } in found {
            socket.set_nonblocking(true)?;
            taken.sockets.push(if let Some((file, _)) = &taken.file {
                BoundSocket::unix(socket.into(), file.clone())
            } else {
                tune(&socket)?;
                taken.shared &= socket.reuse_port()?;
                BoundSocket::tcp(socket.into())
            });
        }
        Ok(Some(taken))
    }
}

impl Found {
    fn new(socket: OwnedFd, giver: Giver) -> io::Result<Self> {
        let fd = socket.as_raw_fd();
        let wrong = |what: String| {
            let message = format!("the file descriptor {fd} that was handed on {what}");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        let view = SockRef::from(&socket);
        let kind = view.r#type().map_err(|error| wrong(format!("is no socket: {error}")))?;
        if kind != Type::STREAM {
            return Err(wrong("is no stream socket".to_owned()));
        }
        // A child of this process is not to have it by accident.
        view.set_cloexec(true)?;
        let address = view.local_addr()?;
        let address = match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => ListenAddress::Tcp(address),
            (None, Some(path)) => ListenAddress::Unix(path.to_owned()),
            (None, None) => {
                return Err(wrong("is neither of TCP nor a Unix socket with a path".to_owned()));
            }
        };
        if !view.is_listener()? {
            return Err(wrong(format!("does not listen ({address})")));
        }
        Ok(Self { socket: socket.into(), address, giver })
    }
}

/// Whether the two are one place, however their paths are written.
fn same(one: &ListenAddress, other: &ListenAddress) -> bool {
    let absolute =
        |path: &Path| -> PathBuf { std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) };
    match (one, other) {
        (ListenAddress::Unix(one), ListenAddress::Unix(other)) => absolute(one) == absolute(other),
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_file_that_a_service_manager_keeps_is_known_however_its_path_is_written() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let relative = dir.path().join("x.sock");
        let relative = relative.strip_prefix(std::env::current_dir().unwrap()).unwrap_or(&relative);
        let absolute = std::path::absolute(relative).unwrap();
        let socket = UnixListener::bind(relative).unwrap();
        let inherited = Inherited::new([socket.into()], Giver::Predecessor).unwrap();
        let mut inherited = inherited.keeping(&[absolute]);
        let taken = inherited.take(&ListenAddress::Unix(relative.to_owned())).unwrap().unwrap();
        assert_eq!(taken.file.unwrap().1, Giver::ServiceManager);
    }
}
