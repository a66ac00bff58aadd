//! The ways in which files change under a running proxy.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a file is given other contents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Put {
    /// Another file is renamed over it, as editors do.
    Rename,
    /// It is emptied and written anew, in two pieces.
    InPlace,
    /// It is a link over a link to a folder, which is replaced, as Kubernetes does
    /// with a `ConfigMap`.
    Link,
}

impl Put {
    /// All of them, together with each of six other things.
    pub fn number(number: usize) -> Self {
        [Self::Rename, Self::InPlace, Self::Link][(number + number / 6) % 3]
    }

    /// Gives these files in a folder other contents.
    pub fn write(self, dir: &Path, files: &[(&str, &str)]) {
        match self {
            Self::Rename => {
                for (name, contents) in files {
                    let new = dir.join(format!("{name}.new"));
                    std::fs::write(&new, contents).unwrap();
                    std::fs::rename(new, dir.join(name)).unwrap();
                }
            }
            Self::InPlace => {
                use std::io::Write;
                for (name, contents) in files {
                    let mut file = std::fs::File::create(dir.join(name)).unwrap();
                    let (one, two) = contents.as_bytes().split_at(contents.len() / 2);
                    file.write_all(one).unwrap();
                    file.write_all(two).unwrap();
                }
            }
            Self::Link => swap(dir, files),
        }
    }
}

fn swap(dir: &Path, files: &[(&str, &str)]) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Each set of files is mounted for itself.
    let data = format!("..data-{}", files[0].0);
    let folder = format!("..{}", NEXT.fetch_add(1, Ordering::Relaxed));
    std::fs::create_dir(dir.join(&folder)).unwrap();
    for (name, contents) in files {
        std::fs::write(dir.join(&folder).join(name), contents).unwrap();
    }
    let before = std::fs::read_link(dir.join(&data));
    link(&folder, &dir.join(&data));
    for (name, _) in files {
        let target = format!("{data}/{name}");
        let there = std::fs::read_link(dir.join(name));
        if there.is_err() || there.is_ok_and(|there| there != Path::new(&target)) {
            link(&target, &dir.join(name));
        }
    }
    if let Ok(before) = before {
        let _gone = std::fs::remove_dir_all(dir.join(before));
    }
}

/// Puts a link in the place of whatever is there.
fn link(target: &str, place: &Path) {
    let new = place.with_file_name("..new");
    std::os::unix::fs::symlink(target, &new).unwrap();
    std::fs::rename(new, place).unwrap();
}
