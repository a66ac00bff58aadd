//! Binding sockets.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::sockets::BoundSocket;
use super::unix;
use super::{ListenAddress, ListenerSettings};
use crate::socket::tune;

/// The open sockets of one listener.
#[derive(Debug)]
pub struct Listener {
    name: String,
    addresses: Vec<ListenAddress>,
    /// Which worker each socket is for.
    sockets: Vec<(usize, BoundSocket)>,
}

/// An address that cannot be bound.
#[derive(Debug)]
pub struct AddressError {
    /// The address.
    pub address: ListenAddress,
    /// Why, and what may help.
    pub cause: io::Error,
}

impl Listener {
    /// Opens a socket for each address and worker.
    ///
    /// Several workers have a socket each, between which the kernel spreads
    /// the connections (`SO_REUSEPORT`). Of a Unix socket there is one, from which
    /// whoever has the time accepts.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound.
    pub fn bind(settings: &ListenerSettings, workers: usize) -> Result<Self, AddressError> {
        let mut listener =
            Self { name: settings.name.clone(), addresses: Vec::new(), sockets: Vec::new() };
        let backlog = i32::try_from(settings.backlog).unwrap_or(i32::MAX);
        for address in &settings.addresses {
            let bound = match address {
                ListenAddress::Tcp(address) => listener.bind_tcp(*address, backlog, workers),
                ListenAddress::Unix(path) => {
                    listener.bind_unix(path, settings.unix_mode, backlog, workers)
                }
            };
            bound.map_err(|cause| AddressError {
                cause: explained(cause, address),
                address: address.clone(),
            })?;
        }
        Ok(listener)
    }

    fn bind_unix(
        &mut self,
        path: &Path,
        mode: u32,
        backlog: i32,
        workers: usize,
    ) -> io::Result<()> {
        let (socket, file) = unix::listen(path, mode, backlog)?;
        for worker in 1..workers {
            let socket = BoundSocket::unix(socket.try_clone()?, file.clone());
            self.sockets.push((worker, socket));
        }
        self.sockets.push((0, BoundSocket::unix(socket, file)));
        self.addresses.push(ListenAddress::Unix(path.to_owned()));
        Ok(())
    }

    fn bind_tcp(
        &mut self,
        mut address: SocketAddr,
        backlog: i32,
        workers: usize,
    ) -> io::Result<()> {
        let shared = workers > 1;
        if shared && address.port() != 0 {
            // With SO_REUSEPORT a second Tollgate could bind what the first
            // has, and take half of its connections without a word.
            drop(open(address, false)?);
        }
        for worker in 0..workers.max(1) {
            let socket = open(address, shared)?;
            socket.listen(backlog)?;
            let socket = std::net::TcpListener::from(socket);
            if worker == 0 {
                address = socket.local_addr()?;
                self.addresses.push(address.into());
            }
            self.sockets.push((worker, BoundSocket::tcp(socket)));
        }
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is bound, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// Hands out the sockets of one worker.
    pub fn take_sockets(&mut self, worker: usize) -> Vec<BoundSocket> {
        self.sockets.extract_if(.., |(of, _)| *of == worker).map(|(_, socket)| socket).collect()
    }
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // An IPv4 address is bound where it is asked for, not on the side.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
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

    fn settings(address: &str) -> ListenerSettings {
        ListenerSettings::new("test", address.parse::<SocketAddr>().unwrap())
    }

    #[test]
    fn every_worker_has_a_socket_on_the_same_port() {
        let mut listener = Listener::bind(&settings("127.0.0.1:0"), 3).unwrap();
        let [ListenAddress::Tcp(address)] = *listener.addresses() else { panic!() };
        for worker in 0..3 {
            let [socket] = &listener.take_sockets(worker)[..] else { panic!() };
            assert_eq!(socket.local_addr(), Some(address));
        }
        assert!(listener.take_sockets(0).is_empty());
    }

    #[test]
    fn a_port_that_is_taken_is_not_shared_silently() {
        for workers in [1, 2] {
            let first = Listener::bind(&settings("127.0.0.1:0"), workers).unwrap();
            let address = first.addresses()[0].clone();
            let error = Listener::bind(&settings(&address.to_string()), workers).unwrap_err();
            assert_eq!(error.address, address);
            assert!(error.cause.to_string().contains("another process"), "{}", error.cause);
        }
    }

    #[test]
    fn ipv4_and_ipv6_bind_side_by_side() {
        // A machine without IPv6 has nothing to tell apart.
        let Ok(v6) = Listener::bind(&settings("[::]:0"), 1) else { return };
        let ListenAddress::Tcp(address) = v6.addresses()[0] else { panic!() };
        let v4 = format!("0.0.0.0:{}", address.port());
        Listener::bind(&settings(&v4), 1).unwrap();
    }
}
