//! Sockets that the service manager has opened.

use std::env;
use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

/// The listening sockets that the service manager has opened for this process, TCP
/// and Unix alike; none if there is no manager, or they are another process's.
///
/// To be called once, before any thread is started and any descriptor opened: it
/// takes the variables out of the environment, so that no process started later takes
/// the sockets for its own, and the descriptors are taken by their numbers.
///
/// # Errors
///
/// One of them is nothing that can be accepted from.
pub fn inherited() -> io::Result<Vec<OwnedFd>> {
    // The crate would take the sockets also if nobody is said to own them.
    let ours = env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    if !ours {
        return Ok(Vec::new());
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut given = ListenFd::from_env();
    (0..given.len())
        .map(|index| {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
            take(&mut given, index).map_err(|error| {
                let place = format!("socket {} of the service manager's, `{name}`", index + 1);
                io::Error::new(error.kind(), format!("{place}: {error}"))
            })
        })
        .collect()
}

fn take(given: &mut ListenFd, index: usize) -> io::Result<OwnedFd> {
    let unfit = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let socket = match given.take_tcp_listener(index) {
        Ok(tcp) => tcp.map(OwnedFd::from),
        Err(_) => match given.take_unix_listener(index) {
            Ok(unix) => unix.map(OwnedFd::from),
            Err(_) => return Err(unfit("it is neither a TCP nor a Unix stream socket")),
        },
    };
    let socket = socket.ok_or_else(|| unfit("it is not there"))?;
    if rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Ok(socket);
    }
    Err(unfit("it does not listen; the socket unit may say Accept=yes, it has to be no"))
}
