//! Connecting to an origin over a Unix socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use super::connect::kind_of;
use crate::error::{Error, Kind};

/// How soon a socket whose queue was full is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// Connects. Has no deadline of its own.
pub(super) async fn connect(path: &Path) -> Result<UnixStream, Error> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            // Where TCP would let it wait in the queue.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => {
                let what = match error.kind() {
                    io::ErrorKind::NotFound => "there is no socket at",
                    io::ErrorKind::ConnectionRefused => "nobody listens on the socket",
                    io::ErrorKind::PermissionDenied => "this user may not connect to",
                    _ => "the socket",
                };
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => Kind::ConnectRefused,
                    _ => kind_of(&error),
                };
                let detail = format!("{what} {}", path.display());
                return Err(Error::new(kind).detail(detail).because(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, SockAddr, Socket, Type};

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("x.sock");
        let error = connect(&path).await.unwrap_err();
        assert_eq!(error.kind(), Kind::ConnectRefused);
        assert!(error.to_string().contains("no socket at"), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = connect(&path).await.unwrap_err();
        assert_eq!(error.kind(), Kind::ConnectRefused);
        assert!(error.to_string().contains("nobody listens"), "{error}");
    }

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("x.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(AGAIN * 4, connect(&path)).await {
            queued.push(stream.unwrap());
            assert!(queued.len() < 10, "the queue has no end");
        }
        let waiting = connect(&path);
        let accepting = tokio::task::spawn_blocking(move || {
            std::thread::sleep(AGAIN * 2);
            let accepted = socket.accept().unwrap();
            (socket, accepted)
        });
        let (connected, _accepted) = tokio::join!(waiting, accepting);
        connected.unwrap();
    }
}
