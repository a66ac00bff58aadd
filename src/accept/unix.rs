//! Unix sockets to listen on: their files, and what becomes of them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a socket that this process listens on. It goes when nobody accepts
/// any more, unless it is somebody else's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// What tells it from one that another process has put in its place.
    id: Option<Id>,
    /// Who removes it: this process, until it has done so or hands it over.
    ours: AtomicBool,
}

/// Device, inode, and when it was made: an inode is soon used again.
type Id = (u64, u64, i64, i64);

/// Listens at `path`. A file that an earlier process has left there is removed.
///
/// # Errors
///
/// Somebody listens there, something else than a socket is there, or the system
/// refused.
pub(super) fn listen(
    path: &Path,
    mode: u32,
    backlog: i32,
) -> io::Result<(UnixListener, Arc<SocketFile>)> {
    clear(path)?;
    let socket = socket()?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = Arc::new(SocketFile::at(path));
    file.set_ours(true);
    // Before it listens: whoever the mode keeps out has had no time to connect.
    file.set_mode(mode)?;
    socket.listen(backlog)?;
    Ok((socket.into(), file))
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            let what = "something is there that is no socket; it is left alone";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) => {}
    }
    match socket()?.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // Also one whose queue is full.
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn id(path: &Path) -> Option<Id> {
    let there = fs::symlink_metadata(path).ok()?;
    Some((there.dev(), there.ino(), there.mtime(), there.mtime_nsec()))
}

impl SocketFile {
    /// The file of a socket that is bound to `path` already, and somebody else's.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), id: id(path), ours: AtomicBool::new(false) }
    }

    /// Says whether it is this process that removes it.
    pub(super) fn set_ours(&self, ours: bool) {
        self.ours.store(ours, Ordering::Relaxed);
    }

    /// Says who may connect.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    /// Removes the file, unless that was done, or it is another's to remove. From then on
    /// nobody finds the socket, and those that have connected can be accepted.
    pub(super) fn remove(&self) {
        if self.ours.swap(false, Ordering::Relaxed)
            && self.id.is_some()
            && id(&self.path) == self.id
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the file of a socket cannot be removed");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_has_its_mode_and_its_file_goes_with_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("x.sock");
        let (listener, file) = listen(&path, 0o620, 8).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o620);
        UnixStream::connect(&path).unwrap();
        assert_eq!(listen(&path, 0o660, 8).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_anything_else_is_not() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("x.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(listen(&path, 0o660, 8).unwrap());
        fs::write(&path, "precious").unwrap();
        assert_eq!(listen(&path, 0o660, 8).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nothing"), &link).unwrap();
        assert_eq!(listen(&link, 0o660, 8).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn the_file_of_a_successor_stays() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("x.sock");
        let (old, file) = listen(&path, 0o660, 8).unwrap();
        drop(old);
        // The clock of a file system is a coarse one.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let _new = listen(&path, 0o660, 8).unwrap();
        drop(file);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_path_that_is_too_long_or_leads_nowhere_is_an_error() {
        let long = format!("/tmp/{}", "x".repeat(200));
        assert!(listen(Path::new(&long), 0o660, 8).is_err());
        let nowhere = listen(Path::new("/nonexistent/x.sock"), 0o660, 8);
        assert_eq!(nowhere.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
