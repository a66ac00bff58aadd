//! The way to a file: the names it leads over, with all the links among them.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// As many as Linux follows.
const MOST_LINKS: usize = 40;

/// One step of the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    /// A folder, in which no component is a link.
    pub(super) folder: &'a Path,
    /// The name in it that the way leads over.
    pub(super) name: &'a OsStr,
    /// Whether the name is the last one of a path or of a link's target: the file
    /// itself, or a link instead of it.
    pub(super) last: bool,
}

/// Goes the way to `path`, and says where it ends. `step` is called before a name is looked at, so that
/// whoever watches the folder from there on misses nothing.
pub(super) fn walk(path: &Path, mut step: impl FnMut(Step<'_>)) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (mut ahead, mut folder, mut links) = (VecDeque::new(), PathBuf::from("/"), 0);
    prepend(&mut ahead, &mut folder, &whole);
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            folder.pop();
            continue;
        }
        step(Step { folder: &folder, name: &name, last: ahead.is_empty() });
        let here = folder.join(&name);
        match std::fs::read_link(&here) {
            Ok(_) if links == MOST_LINKS => return here,
            Ok(target) => {
                links += 1;
                prepend(&mut ahead, &mut folder, &target);
            }
            // No link, or nothing at all: then there is nothing below it either.
            Err(_) => folder = here,
        }
    }
    folder
}

/// Puts a path before what is still ahead.
fn prepend(ahead: &mut VecDeque<OsString>, folder: &mut PathBuf, path: &Path) {
    if path.is_absolute() {
        *folder = PathBuf::from("/");
    }
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => ahead.push_front(name.to_owned()),
            Component::ParentDir => ahead.push_front(OsString::from("..")),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn steps(path: &Path, below: &Path) -> Vec<String> {
        let mut steps = Vec::new();
        let _end = walk(path, |step| {
            if let Ok(folder) = step.folder.strip_prefix(below) {
                let mark = if step.last { "!" } else { "" };
                steps.push(format!("{}{mark}", folder.join(step.name).display()));
            }
        });
        steps
    }

    #[test]
    fn every_link_on_the_way_is_a_step() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("etc/..1")).unwrap();
        std::fs::write(root.join("etc/..1/config.toml"), "").unwrap();
        symlink("..1", root.join("etc/..data")).unwrap();
        symlink("..data/config.toml", root.join("etc/config.toml")).unwrap();
        symlink("../etc/./config.toml", root.join("etc/up")).unwrap();
        let chain = ["etc", "etc/config.toml!", "etc/..data", "etc/..1", "etc/..1/config.toml!"];
        assert_eq!(steps(&root.join("etc/config.toml"), &root), chain);
        let up = steps(&root.join("etc/up"), &root);
        assert_eq!(walk(&root.join("etc/up"), |_| {}), root.join("etc/..1/config.toml"));
        assert_eq!(up[..2], ["etc", "etc/up!"]);
        assert_eq!(up[2..], chain);
    }

    #[test]
    fn a_circle_ends_and_what_is_missing_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink(root.join("a"), root.join("b")).unwrap();
        assert!(steps(&root.join("a"), &root).len() <= MOST_LINKS + 1);
        assert_eq!(steps(&root.join("not/there"), &root), ["not", "not/there!"]);
    }
}
