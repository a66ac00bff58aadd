//! Opening the sockets of one address.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::inherited::{Giver, Inherited, Taken};
use super::sockets::BoundSocket;
use super::unix::{self, SocketFile};
use super::{ListenAddress, ListenerSettings};
use crate::socket::tune;

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (listener `{listener}`)")]
pub struct BindError {
    /// The listener's name.
    pub listener: String,
    /// The address.
    pub address: ListenAddress,
    /// Why, and what may help.
    #[source]
    pub cause: io::Error,
}

/// How the sockets of an address are opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) workers: usize,
    pub(super) backlog: i32,
    pub(super) unix_mode: u32,
}

/// The sockets of an address: at least one for each worker.
#[derive(Debug)]
pub(super) struct Opened {
    /// With the port that the system chose.
    pub(super) address: ListenAddress,
    /// Which worker each is for.
    pub(super) sockets: Vec<(usize, BoundSocket)>,
    pub(super) file: Option<Arc<SocketFile>>,
    /// Who has opened them, if it was not this process.
    pub(super) giver: Option<Giver>,
}

impl Terms {
    pub(super) fn new(settings: &ListenerSettings, workers: usize) -> Self {
        let backlog = i32::try_from(settings.backlog).unwrap_or(i32::MAX);
        Self { workers: workers.max(1), backlog, unix_mode: settings.unix_mode }
    }

    /// Takes the sockets of `address` that were handed on, or opens some: one for
    /// each worker, between which the kernel spreads the connections
    /// (`SO_REUSEPORT`). Of a Unix socket there is one, from which whoever has the
    /// time accepts. `ours` says whether this process has a socket that an address
    /// overlaps with.
    pub(super) fn open(
        self,
        address: &ListenAddress,
        inherited: &mut Inherited,
        ours: impl Fn(SocketAddr) -> bool,
    ) -> io::Result<Opened> {
        let opened = match (inherited.take(address), address) {
            (Ok(Some(taken)), _) => self.taken(address, taken),
            (Ok(None), ListenAddress::Tcp(tcp)) => self.tcp(*tcp, ours),
            (Ok(None), ListenAddress::Unix(path)) => self.unix(path),
            (Err(error), _) => Err(error),
        };
        opened.map_err(|cause| explained(cause, address))
    }

    fn unix(self, path: &Path) -> io::Result<Opened> {
        let (socket, file) = unix::listen(path, self.unix_mode, self.backlog)?;
        let first = BoundSocket::unix(socket, file.clone());
        let address = ListenAddress::Unix(path.to_owned());
        let sockets = self.doubled(vec![first])?;
        Ok(Opened { address, sockets, file: Some(file), giver: None })
    }

    fn tcp(self, mut address: SocketAddr, ours: impl Fn(SocketAddr) -> bool) -> io::Result<Opened> {
        let overlaps = ours(address);
        if address.port() != 0 && !overlaps {
            // With SO_REUSEPORT a second Tollgate could bind what the first
            // has, and take half of its connections without a word.
            drop(socket(address, false)?);
        }
        let mut sockets = Vec::new();
        for worker in 0..self.workers {
            let socket = socket(address, true)?;
            if !overlaps {
                socket.listen(self.backlog)?;
            }
            let socket = std::net::TcpListener::from(socket);
            if worker == 0 {
                address = socket.local_addr()?;
            }
            sockets.push((worker, BoundSocket::tcp(socket)));
        }
        Ok(Opened { address: address.into(), sockets, file: None, giver: None })
    }

    fn taken(self, address: &ListenAddress, taken: Taken) -> io::Result<Opened> {
        let Taken { mut sockets, shared, file } = taken;
        let (file, giver) = file.unzip();
        if let (true, ListenAddress::Tcp(address)) = (shared, address) {
            while sockets.len() < self.workers {
                // Another user's process may have bound the first.
                let Ok(socket) = socket(*address, true) else { break };
                // It listens only once it is accepted from.
                sockets.push(BoundSocket::tcp(socket.into()));
            }
        }
        let sockets = self.doubled(sockets)?;
        Ok(Opened { address: address.clone(), sockets, file, giver })
    }

    /// Deals out sockets, and doubles of them to workers that would have none.
    fn doubled(self, mut sockets: Vec<BoundSocket>) -> io::Result<Vec<(usize, BoundSocket)>> {
        for worker in sockets.len()..self.workers {
            let Some(socket) = sockets.get(worker % sockets.len().max(1)) else { break };
            let double = socket.try_clone()?;
            sockets.push(double);
        }
        let dealt = sockets.into_iter().enumerate();
        Ok(dealt.map(|(index, socket)| (index % self.workers, socket)).collect())
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // An IPv4 address is bound where it is asked for, not on the side.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    tune(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn explained(cause: io::Error, address: &ListenAddress) -> io::Error {
    let low = matches!(address, ListenAddress::Tcp(address) if address.port() < 1024);
    let hint = match cause.kind() {
        io::ErrorKind::AddrInUse => "another process listens there",
        io::ErrorKind::PermissionDenied if low => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::NotFound => "the folder of the socket does not exist",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        _ => return cause,
    };
    io::Error::new(cause.kind(), format!("{cause}: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn open(address: &str, workers: usize) -> io::Result<Opened> {
        let address = ListenAddress::Tcp(address.parse().unwrap());
        let terms = Terms { workers, backlog: 16, unix_mode: 0o660 };
        terms.open(&address, &mut Inherited::default(), |_| false)
    }

    #[test]
    fn every_worker_has_a_socket_on_the_same_port() {
        let opened = open("127.0.0.1:0", 3).unwrap();
        let ListenAddress::Tcp(address) = opened.address else { panic!() };
        assert_eq!(opened.sockets.len(), 3);
        for (index, (worker, socket)) in opened.sockets.iter().enumerate() {
            let bound = socket2::SockRef::from(&socket.as_fd()).local_addr().unwrap();
            assert_eq!((*worker, bound.as_socket()), (index, Some(address)));
        }
    }

    #[test]
    fn a_port_that_is_taken_is_not_shared_silently() {
        for workers in [1, 2] {
            let first = open("127.0.0.1:0", workers).unwrap();
            let error = open(&first.address.to_string(), workers).unwrap_err();
            assert!(error.to_string().contains("another process"), "{error}");
        }
    }

    /// Sockets that listen at one address, and it.
    fn given(count: usize, shared: bool) -> (Vec<Socket>, SocketAddr) {
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = (0..count).map(|_| {
            let socket = socket(address, shared).unwrap();
            socket.listen(16).unwrap();
            address = socket.local_addr().unwrap().as_socket().unwrap();
            socket
        });
        (sockets.collect(), address)
    }

    fn take_over(sockets: &[Socket], address: SocketAddr, workers: usize) -> Opened {
        let handles = sockets.iter().map(|socket| socket.try_clone().unwrap().into());
        let mut inherited = Inherited::new(handles, Giver::Predecessor).unwrap();
        let terms = Terms { workers, backlog: 16, unix_mode: 0o660 };
        let opened = terms.open(&address.into(), &mut inherited, |_| false).unwrap();
        assert_eq!(inherited.addresses().count(), 0);
        opened
    }

    fn name(socket: impl AsFd) -> String {
        use std::os::fd::AsRawFd;
        let fd = socket.as_fd().as_raw_fd();
        std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string()
    }

    fn of_workers(opened: &Opened) -> Vec<usize> {
        opened.sockets.iter().map(|(worker, _)| *worker).collect()
    }

    #[test]
    fn more_sockets_than_workers_are_all_accepted_from() {
        let (sockets, address) = given(5, true);
        let opened = take_over(&sockets, address, 2);
        assert_eq!(of_workers(&opened), [0, 1, 0, 1, 0]);
        for ((_, taken), given) in opened.sockets.iter().zip(&sockets) {
            assert_eq!(name(taken), name(given));
        }
    }

    #[test]
    fn a_socket_that_shares_its_address_gets_others_beside_it_that_do_not_listen_yet() {
        let (sockets, address) = given(1, true);
        let opened = take_over(&sockets, address, 3);
        assert_eq!(of_workers(&opened), [0, 1, 2]);
        let mut names: Vec<_> = opened.sockets.iter().map(|(_, socket)| name(socket)).collect();
        assert_eq!(names[0], name(&sockets[0]));
        names.dedup();
        assert_eq!(names.len(), 3);
        let listens = |(_, socket): &(usize, BoundSocket)| {
            socket2::SockRef::from(&socket.as_fd()).is_listener().unwrap()
        };
        assert_eq!(opened.sockets.iter().map(listens).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_socket_that_does_not_share_is_accepted_from_by_all_and_handed_on_once() {
        let (sockets, address) = given(1, false);
        let opened = take_over(&sockets, address, 3);
        assert_eq!(of_workers(&opened), [0, 1, 2]);
        assert!(opened.sockets.iter().all(|(_, socket)| name(socket) == name(&sockets[0])));
        let handles = opened.sockets.iter().filter_map(|(_, socket)| socket.handle());
        assert_eq!(handles.count(), 1);
    }

    #[test]
    fn ipv4_and_ipv6_bind_side_by_side() {
        // A machine without IPv6 has nothing to tell apart.
        let Ok(v6) = open("[::]:0", 1) else { return };
        let ListenAddress::Tcp(address) = v6.address else { panic!() };
        open(&format!("0.0.0.0:{}", address.port()), 1).unwrap();
    }
}
