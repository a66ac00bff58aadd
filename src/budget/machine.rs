//! How much memory the system lets the process have.

use std::fs;
use std::path::{Path, PathBuf};

/// The least of what the process's control group, those above it and the machine
/// have, in bytes; `None` where the system does not say.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    limit_under(Path::new("/"))
}

fn limit_under(root: &Path) -> Option<u64> {
    group_limit(root).into_iter().chain(machine_limit(root)).min()
}

/// `MemTotal` of `/proc/meminfo`, which is in units of 1,024 bytes.
fn machine_limit(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of the process's control group and all above it, of either
/// version of cgroups.
fn group_limit(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least = None;
    for line in text.lines() {
        // Number, controllers, path: version 2 has the number 0 and no controllers.
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (mount, file) = if number == "0" && controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let mount = root.join(mount);
        // In a container the path may be the host's, of which only the end, or
        // nothing, can be seen.
        let folders = folders(&mount, path);
        least = folders.iter().filter_map(|folder| read(&folder.join(file))).chain(least).min();
    }
    least
}

/// The folder of a group and those above it, up to the mount.
fn folders(mount: &Path, path: &str) -> Vec<PathBuf> {
    let group = mount.join(path.trim_start_matches('/'));
    group.ancestors().take_while(|folder| folder.starts_with(mount)).map(Path::to_owned).collect()
}

/// The limit in a file; `max` (version 2) and a number near 2⁶³ (version 1) are
/// none.
fn read(file: &Path) -> Option<u64> {
    let limit: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (limit < 1 << 62).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn system(files: &[(&str, &str)]) -> TempDir {
        let dir = TempDir::new().unwrap();
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const MACHINE: (&str, &str) =
        ("proc/meminfo", "MemFree:  1 kB\nMemTotal:       2000 kB\nMemAvailable: 5 kB\n");

    #[test]
    fn without_a_control_group_it_is_the_machines_memory() {
        assert_eq!(limit_under(system(&[MACHINE]).path()), Some(2_048_000));
        assert_eq!(limit_under(system(&[]).path()), None);
    }

    #[test]
    fn the_tightest_group_above_counts() {
        let v2 = system(&[
            MACHINE,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
        ]);
        assert_eq!(limit_under(v2.path()), Some(1_000_000));
        let v1 = system(&[
            MACHINE,
            ("proc/self/cgroup", "4:cpu,memory:/x\n1:pids:/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "500000\n"),
        ]);
        assert_eq!(limit_under(v1.path()), Some(500_000));
    }

    #[test]
    fn in_a_container_the_mount_is_the_group() {
        let container = system(&[
            MACHINE,
            ("proc/self/cgroup", "0::/../../kubepods/pod1\n"),
            ("sys/fs/cgroup/memory.max", "700000\n"),
        ]);
        assert_eq!(limit_under(container.path()), Some(700_000));
        let unlimited = system(&[
            MACHINE,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
        ]);
        assert_eq!(limit_under(unlimited.path()), Some(2_048_000));
    }
}
