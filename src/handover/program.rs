//! Which program the successor runs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Linux says of a running file that was replaced or removed.
const DELETED: &[u8] = b" (deleted)";

/// The program that runs, as it was started: so that whatever stands at the same
/// path later can be started in the same way.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Takes down how this process was started. To be called early: later the file
    /// may have been replaced, and is not known any more for the one that runs.
    ///
    /// The path is the one that was given, with its symbolic links, so that a link
    /// that points at another version is followed then.
    ///
    /// # Errors
    ///
    /// The system does not say what runs, as without `/proc`.
    pub fn running() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let given = arguments.next().and_then(|name| started_as(&name));
        let path = match given {
            Some(path) => path,
            None => undeleted(env::current_exe()?),
        };
        Ok(Self { path, arguments: arguments.collect() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What starts it anew: with the same arguments, environment and working
    /// directory.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}

/// The absolute path of what was started by this name, if it is what runs: a
/// process may be told any name.
fn started_as(name: &OsStr) -> Option<PathBuf> {
    let here = env::current_dir().ok()?;
    let running = env::current_exe().ok()?.metadata().ok()?;
    let runs = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|found| (found.dev(), found.ino()) == (running.dev(), running.ino()))
    };
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(name).ok().filter(runs);
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| here.join(folder).join(name)).find(runs)
}

/// The path without Linux's remark that something else stands there by now.
fn undeleted(path: PathBuf) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    match bytes.strip_suffix(DELETED) {
        Some(before) if !path.exists() => PathBuf::from(OsString::from_vec(before.to_vec())),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_looked_for_where_it_stood() {
        let gone = PathBuf::from("/opt/tollgate (deleted)");
        assert_eq!(undeleted(gone), Path::new("/opt/tollgate"));
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("tollgate (deleted)");
        std::fs::write(&odd, "").unwrap();
        assert_eq!(undeleted(odd.clone()), odd, "a file that is called so");
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("tollgate");
        std::os::unix::fs::symlink(env::current_exe().unwrap(), &link).unwrap();
        assert_eq!(started_as(link.as_os_str()), Some(link));
    }

    #[test]
    fn a_name_that_is_not_the_programs_own_is_not_believed() {
        assert_eq!(started_as(OsStr::new("/bin/sh")), None);
        assert_eq!(started_as(OsStr::new("sh")), None);
    }
}
