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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    /// Says that a process is the service of the tests below.
    const SERVICE: &str = "TOLLGATE_TEST_SERVICE";

    const ARGUMENTS: [&str; 4] =
        ["--exact", "systemd::sockets::tests::a_service", "--ignored", "--nocapture"];

    /// Not a test of its own: answers at each socket with how many it was given.
    #[test]
    #[ignore = "the service of other tests"]
    fn a_service() {
        if env::var_os(SERVICE).is_none() {
            return;
        }
        let sockets = inherited().unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(78);
        });
        assert!(inherited().unwrap().is_empty(), "they were given once");
        let answer = format!("{} {:?}", sockets.len(), env::var_os("LISTEN_FDS"));
        for socket in sockets {
            let flags = rustix::io::fcntl_getfd(&socket).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            let tcp = TcpListener::from(socket.try_clone().unwrap());
            if tcp.local_addr().is_ok() {
                tcp.accept().unwrap().0.write_all(answer.as_bytes()).unwrap();
            } else {
                let unix = UnixListener::from(socket);
                unix.accept().unwrap().0.write_all(answer.as_bytes()).unwrap();
            }
        }
        std::process::exit(0);
    }

    /// Starts the service with a socket as descriptor 3, said to be that of `whose`.
    fn start(socket: OwnedFd, whose: &str) -> Child {
        let script = format!("export LISTEN_PID={whose} LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0");
        Command::new("sh")
            .args(["-c", &script])
            .arg(env::current_exe().unwrap())
            .args(ARGUMENTS)
            .env(SERVICE, "1")
            .env("LISTEN_FDNAMES", "http")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn answer(mut connection: impl std::io::Read) -> String {
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn sockets_of_this_process_are_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut service = start(listener.into(), "$$");
        assert_eq!(answer(client), "1 None");
        assert!(service.wait().unwrap().success());
    }

    #[test]
    fn sockets_of_another_process_are_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut service = start(listener.into(), "1");
        assert!(service.wait().unwrap().success());
        let mut answer = Vec::new();
        let _reset = (&client).read_to_end(&mut answer);
        assert!(answer.is_empty());
    }

    #[test]
    fn what_does_not_listen_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let told = start(client.into(), "$$").wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(78), "{said}");
        assert!(said.contains("socket 1 of the service manager's, `http`: it does not"), "{said}");
        let file = std::fs::File::open("/dev/null").unwrap();
        let told = start(file.into(), "$$").wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&told.stderr);
        assert!(said.contains("neither a TCP nor a Unix stream socket"), "{said}");
    }

    #[test]
    fn systemds_own_activation_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let (path, port) = (folder.path().join("socket"), a_free_port());
        let tcp = format!("127.0.0.1:{port}");
        let mut command = Command::new("systemd-socket-activate");
        command.args(["-l", &tcp]).arg("-l").arg(&path).arg("-E").arg(format!("{SERVICE}=1"));
        command.arg(env::current_exe().unwrap()).args(ARGUMENTS).stdout(Stdio::null());
        let Ok(mut manager) = command.spawn() else {
            eprintln!("skipped: systemd-socket-activate is not here");
            return;
        };
        let by_unix = connect(&path);
        assert_eq!(answer(TcpStream::connect(tcp).unwrap()), "2 None");
        assert_eq!(answer(by_unix), "2 None");
        assert!(manager.wait().unwrap().success());
    }

    fn a_free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    /// Waits until somebody listens; the socket that it names last.
    fn connect(path: &Path) -> UnixStream {
        for _ in 0..3000 {
            if let Ok(connection) = UnixStream::connect(path) {
                return connection;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody listens at {}", path.display());
    }
}
