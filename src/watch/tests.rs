//! With real files, as editors, Kubernetes and people write them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Notifications tell of all or the test waits in vain: nobody looks by himself.
const PATIENCE: Patience = Patience {
    quiet: Duration::from_millis(100),
    most: Duration::from_secs(20),
    blind: Duration::from_millis(100),
    watched: Duration::from_secs(3_600),
};

/// A folder with a followed file, and another one whose change shows that until
/// then nothing was told.
struct Case {
    folder: TempDir,
    files: Files,
    signals: u32,
}

impl Case {
    async fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), "old").unwrap();
        Self::following(folder, name, Notifications::new()).await
    }

    /// Follows a file, whose folders are watched by then.
    async fn following(
        folder: TempDir,
        name: &str,
        notifications: std::io::Result<Notifications>,
    ) -> Self {
        let paths = [folder.path().join(name), folder.path().join("signal")];
        let files = Files::with(Contents::of(paths), notifications, PATIENCE);
        let mut case = Self { folder, files, signals: 0 };
        case.is_silent().await;
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The names of what has changed.
    async fn changed(&mut self) -> Vec<String> {
        let changed = timeout(Duration::from_secs(30), self.files.changed()).await.unwrap();
        let name = |path: &PathBuf| {
            let path = path.strip_prefix(self.folder.path()).unwrap();
            path.display().to_string()
        };
        changed.iter().map(name).collect()
    }

    /// Nothing is told of all that has happened until now.
    async fn is_silent(&mut self) {
        self.signals += 1;
        fs::write(self.path("signal"), self.signals.to_string()).unwrap();
        assert_eq!(self.changed().await, ["signal"]);
    }

    /// Lets it look at what there is, which does not make it tell.
    async fn looks_in_vain(&mut self) {
        let told = timeout(PATIENCE.quiet * 5, self.files.changed()).await;
        assert!(told.is_err(), "{told:?}");
    }
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success());
}

#[tokio::test]
async fn written_in_place_in_halves_is_told_once_and_whole() {
    let mut case = Case::new("config.toml").await;
    let path = case.path("config.toml");
    let mut writer = fs::File::create(&path).unwrap();
    writer.write_all(b"half").unwrap();
    case.looks_in_vain().await;
    writer.write_all(b" and half").unwrap();
    drop(writer);
    assert_eq!(case.changed().await, ["config.toml"]);
    case.is_silent().await;
}

#[tokio::test]
async fn a_writer_that_never_ends_is_not_waited_for_for_ever() {
    let mut case = Case::new("config.toml").await;
    case.files.patience.most = PATIENCE.quiet * 3;
    let mut writer = fs::File::create(case.path("config.toml")).unwrap();
    writer.write_all(b"new").unwrap();
    assert_eq!(case.changed().await, ["config.toml"]);
    case.is_silent().await;
}

#[tokio::test]
async fn vim_puts_the_old_file_aside_and_makes_a_new_one() {
    let mut case = Case::new("config.toml").await;
    for text in ["first", "second"] {
        fs::write(case.path("4913"), "").unwrap();
        fs::remove_file(case.path("4913")).unwrap();
        fs::rename(case.path("config.toml"), case.path("config.toml~")).unwrap();
        fs::write(case.path("config.toml"), text).unwrap();
        fs::remove_file(case.path("config.toml~")).unwrap();
        assert_eq!(case.changed().await, ["config.toml"]);
    }
    case.is_silent().await;
}

#[tokio::test]
async fn sed_renames_over_the_file() {
    let mut case = Case::new("config.toml").await;
    for (from, to) in [("old", "new"), ("new", "newer")] {
        let path = case.path("config.toml").display().to_string();
        run("sed", &["-i", &format!("s/{from}/{to}/"), &path]);
        assert_eq!(case.changed().await, ["config.toml"]);
    }
    case.is_silent().await;
}

/// What the kubelet does to put other content in a volume.
fn publish(volume: &Path, version: &str, before: Option<&str>, text: &str) {
    let folder = volume.join(version);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.toml"), text).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    match before {
        Some(before) => fs::remove_dir_all(volume.join(before)).unwrap(),
        None => symlink("..data/config.toml", volume.join("config.toml")).unwrap(),
    }
}

#[tokio::test]
async fn a_config_map_swaps_a_link_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    publish(folder.path(), "..1", None, "1");
    let mut case = Case::following(folder, "config.toml", Notifications::new()).await;
    publish(&case.path(""), "..2", Some("..1"), "2");
    assert_eq!(case.changed().await, ["config.toml"]);
    publish(&case.path(""), "..3", Some("..2"), "2");
    case.is_silent().await;
    publish(&case.path(""), "..4", Some("..3"), "4");
    assert_eq!(case.changed().await, ["config.toml"]);
    case.is_silent().await;
}

#[tokio::test]
async fn a_folder_on_the_way_may_be_another() {
    let folder = tempfile::tempdir().unwrap();
    for release in ["releases/1", "releases/2", "next"] {
        fs::create_dir_all(folder.path().join(release)).unwrap();
        fs::write(folder.path().join(release).join("config.toml"), release).unwrap();
    }
    symlink("releases/1", folder.path().join("current")).unwrap();
    let mut case = Case::following(folder, "current/config.toml", Notifications::new()).await;
    symlink(case.path("releases/2"), case.path("new")).unwrap();
    fs::rename(case.path("new"), case.path("current")).unwrap();
    assert_eq!(case.changed().await, ["current/config.toml"]);
    // The whole of what the link leads into is renamed.
    fs::rename(case.path("releases"), case.path("old")).unwrap();
    fs::create_dir(case.path("releases")).unwrap();
    fs::rename(case.path("next"), case.path("releases/2")).unwrap();
    assert_eq!(case.changed().await, ["current/config.toml"]);
    fs::write(case.path("releases/2/config.toml"), "in place").unwrap();
    assert_eq!(case.changed().await, ["current/config.toml"]);
    case.is_silent().await;
}

#[tokio::test]
async fn a_certificate_and_its_key_are_told_together() {
    let folder = tempfile::tempdir().unwrap();
    let pair = ["a.crt", "a.key"].map(|name| folder.path().join(name));
    pair.iter().for_each(|path| fs::write(path, "old").unwrap());
    let mut case = Case::following(folder, "signal", Notifications::new()).await;
    let signal = case.path("signal");
    case.files.follow(pair.iter().cloned().chain([signal]));
    for path in &pair {
        let new = path.with_extension("new");
        fs::write(&new, "new").unwrap();
        fs::rename(new, path).unwrap();
    }
    assert_eq!(case.changed().await, ["a.crt", "a.key"]);
    case.is_silent().await;
}

#[tokio::test]
async fn what_leaves_the_content_as_it_was_says_nothing() {
    let mut case = Case::new("config.toml").await;
    let path = case.path("config.toml");
    let actions: [fn(&Path); 6] = [
        |path| run("touch", &[&path.display().to_string()]),
        |path| run("chmod", &["0600", &path.display().to_string()]),
        |path| fs::write(path, "old").unwrap(),
        |path| {
            fs::write(path.with_extension("new"), "old").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        },
        |path| {
            fs::write(path, "new").unwrap();
            fs::write(path, "old").unwrap();
        },
        |path| fs::write(path.with_file_name("other"), "new").unwrap(),
    ];
    for action in actions {
        action(&path);
        case.is_silent().await;
    }
}

#[tokio::test]
async fn a_file_that_is_away_has_a_while_to_come_back() {
    let mut case = Case::new("config.toml").await;
    fs::remove_file(case.path("config.toml")).unwrap();
    case.looks_in_vain().await;
    fs::write(case.path("config.toml"), "old").unwrap();
    case.is_silent().await;
}

#[tokio::test]
async fn a_file_that_stays_away_is_told_once_and_so_is_its_return() {
    let mut case = Case::new("config.toml").await;
    case.files.patience.most = PATIENCE.quiet * 3;
    fs::remove_file(case.path("config.toml")).unwrap();
    assert_eq!(case.changed().await, ["config.toml"]);
    case.is_silent().await;
    fs::write(case.path("config.toml"), "old").unwrap();
    assert_eq!(case.changed().await, ["config.toml"]);
    case.is_silent().await;
}

#[tokio::test]
async fn a_burst_is_told_once() {
    let mut case = Case::new("config.toml").await;
    for number in 0..200 {
        fs::write(case.path("config.toml"), number.to_string()).unwrap();
    }
    assert_eq!(case.changed().await, ["config.toml"]);
    case.is_silent().await;
}

#[tokio::test]
async fn a_file_in_a_folder_that_is_not_there_yet_is_told_when_it_appears() {
    let folder = tempfile::tempdir().unwrap();
    let mut case = Case::following(folder, "a/b/config.toml", Notifications::new()).await;
    case.is_silent().await;
    fs::create_dir_all(case.path("a/b")).unwrap();
    case.is_silent().await;
    fs::write(case.path("a/b/config.toml"), "new").unwrap();
    assert_eq!(case.changed().await, ["a/b/config.toml"]);
}

#[tokio::test]
async fn where_there_are_no_notifications_files_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.toml"), "old").unwrap();
    let none = Err(std::io::ErrorKind::Unsupported.into());
    let mut case = Case::following(folder, "config.toml", none).await;
    for text in ["new", "newer"] {
        fs::write(case.path("config.toml"), text).unwrap();
        assert_eq!(case.changed().await, ["config.toml"]);
    }
    fs::write(case.path("config.toml"), "newer").unwrap();
    case.is_silent().await;
}

#[tokio::test]
async fn nothing_is_lost_by_giving_up_the_wait() {
    let mut case = Case::new("config.toml").await;
    fs::write(case.path("config.toml"), "new").unwrap();
    let mut given_up = 0;
    let changed = loop {
        match timeout(Duration::from_millis(1), case.files.changed()).await {
            Ok(changed) => break changed,
            Err(_) => given_up += 1,
        }
        assert!(given_up < 30_000, "nothing was told");
    };
    assert!(given_up > 3, "{given_up}");
    assert_eq!(changed, [case.path("config.toml")]);
    case.is_silent().await;
}

#[tokio::test]
async fn what_changed_since_it_was_noted_is_told_of_another_set() {
    let mut case = Case::new("config.toml").await;
    fs::write(case.path("a.crt"), "old").unwrap();
    let mut seen = Contents::of([case.path("config.toml")]);
    // The configuration is read here, and names files.
    seen.note([case.path("a.crt"), case.path("config.toml"), case.path("signal")]);
    fs::write(case.path("a.crt"), "new").unwrap();
    // The certificates are read here, or were just before.
    case.files.follow(seen);
    assert_eq!(case.changed().await, ["a.crt"]);
    case.is_silent().await;
    let signal = case.path("signal");
    case.files.follow([signal]);
    fs::write(case.path("a.crt"), "not followed").unwrap();
    case.is_silent().await;
}

#[tokio::test]
async fn other_files_may_be_followed_while_it_looks() {
    let mut case = Case::new("config.toml").await;
    fs::write(case.path("a.crt"), "old").unwrap();
    let now = Instant::now();
    case.files.begin_look(now);
    let others = [case.path("a.crt"), case.path("signal")];
    case.files.follow(others);
    fs::write(case.path("a.crt"), "new").unwrap();
    assert_eq!(case.changed().await, ["a.crt"]);
    fs::write(case.path("a.crt"), "newer").unwrap();
    assert_eq!(case.changed().await, ["a.crt"]);
    case.is_silent().await;
}

#[tokio::test]
async fn files_too_long_to_read_are_told_by_length_and_time() {
    let mut case = Case::new("config.toml").await;
    let file = fs::File::create(case.path("config.toml")).unwrap();
    file.set_len(17 << 20).unwrap();
    drop(file);
    assert_eq!(case.changed().await, ["config.toml"]);
    run("chmod", &["0600", &case.path("config.toml").display().to_string()]);
    case.is_silent().await;
    run("touch", &["-d", "2001-01-01", &case.path("config.toml").display().to_string()]);
    assert_eq!(case.changed().await, ["config.toml"]);
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// This process's descriptors that watch a folder or have something in it open.
    fn descriptors(folder: &Path) -> Vec<String> {
        let inode = format!(" ino:{:x} ", fs::metadata(folder).unwrap().ino());
        let numbers = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let number = |entry: fs::DirEntry| entry.file_name().display().to_string();
        numbers
            .map(number)
            .filter(|number| {
                let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
                let path = fs::read_link(format!("/proc/self/fd/{number}"));
                info.is_ok_and(|info| info.contains(&inode))
                    || path.is_ok_and(|path| path.starts_with(folder))
            })
            .collect()
    }

    #[tokio::test]
    async fn one_descriptor_is_used_and_given_back() {
        let mut case = Case::new("config.toml").await;
        for text in ["new", "newer"] {
            fs::write(case.path("config.toml"), text).unwrap();
            assert_eq!(case.changed().await, ["config.toml"]);
            assert_eq!(descriptors(case.folder.path()).len(), 1);
        }
        let Case { folder, files, .. } = case;
        drop(files);
        assert_eq!(descriptors(folder.path()).len(), 0);
    }

    #[tokio::test]
    async fn folders_that_are_not_on_the_way_any_more_are_not_watched() {
        let mut case = Case::new("config.toml").await;
        fs::create_dir(case.path("elsewhere")).unwrap();
        fs::write(case.path("elsewhere/a.crt"), "old").unwrap();
        let both = [case.path("elsewhere/a.crt"), case.path("signal")];
        case.files.follow(both);
        case.is_silent().await;
        assert_eq!(descriptors(&case.path("elsewhere")).len(), 1);
        let signal = case.path("signal");
        case.files.follow([signal]);
        case.is_silent().await;
        assert_eq!(descriptors(&case.path("elsewhere")).len(), 0);
        assert_eq!(descriptors(case.folder.path()).len(), 1);
    }

    /// Without a single watch. Run by the next test, in a place where that is so.
    #[tokio::test]
    #[ignore = "needs a user namespace whose limit is 0"]
    async fn past_the_limit() {
        let mut case = Case::new("config.toml").await;
        assert!(case.files.blind);
        for text in ["new", "newer"] {
            fs::write(case.path("config.toml"), text).unwrap();
            assert_eq!(case.changed().await, ["config.toml"]);
        }
    }

    /// Runs an ignored test of these where the user is root of a namespace of its
    /// own, after a script. Not where that is not possible.
    fn elsewhere(script: &str, test: &str) {
        let within = |script: &str| {
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
            unshare.arg(std::env::current_exe().unwrap()).output()
        };
        if !within(script).is_ok_and(|output| output.status.success()) {
            eprintln!("not tried: there are no user namespaces here");
            return;
        }
        let test = format!("--include-ignored --exact watch::tests::linux::{test}");
        let output = within(&format!("{script} && exec \"$0\" {test}")).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    fn past_the_limit_of_watches_files_are_looked_at() {
        elsewhere("echo 0 > /proc/sys/user/max_inotify_watches", "past_the_limit");
    }

    /// As in a container whose configuration is mounted alone.
    #[tokio::test]
    #[ignore = "needs to mount"]
    async fn mounted() {
        let mut case = Case::new("config.toml").await;
        let outside = case.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("config.toml"), "new").unwrap();
        let [from, to] = [outside.join("config.toml"), case.path("config.toml")];
        run("mount", &["--bind", &from.display().to_string(), &to.display().to_string()]);
        let paths = [to, case.path("signal")];
        case.files.follow(paths);
        case.is_silent().await;
        for text in ["newer", "newest"] {
            fs::write(&from, text).unwrap();
            assert_eq!(case.changed().await, ["config.toml"]);
        }
    }

    #[test]
    fn a_file_that_is_mounted_by_itself_is_followed_too() {
        elsewhere("mount --bind /tmp /tmp", "mounted");
    }
}
