use std::net::TcpListener;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::admin::Operator as _;
use crate::app::{Bound, Proxy};
use crate::upstream::OriginChange;

/// A proxy of a configuration in a folder of its own.
struct Bench {
    dir: TempDir,
    control: Control,
    bound: Option<Bound>,
}

impl Bench {
    fn new(rest: &str) -> Self {
        let dir = TempDir::new().unwrap();
        certify(&dir);
        write(&dir, rest);
        let proxy = Proxy::from_config(dir.path().join("config.toml"));
        let bound = proxy.unwrap_or_else(|error| panic!("{error}")).bind().unwrap();
        Self { dir, control: bound.control().clone(), bound: Some(bound) }
    }

    /// Has it follow its files.
    fn run(&mut self) {
        tokio::spawn(self.bound.take().unwrap().run(std::future::pending()));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn reload(&self, rest: &str, confirm: Option<Duration>) -> Result<u64, Refused> {
        write(&self.dir, rest);
        let how = Reload { plan_only: false, confirm };
        Ok(self.control.reload_now(ReloadTrigger::Api, how).await?.generation)
    }

    async fn renew(&self) {
        certify(&self.dir);
        self.control.files_changed(&[self.file("a.crt"), self.file("a.key")]).await;
    }

    fn fingerprint(&self) -> String {
        self.control.certificates()[0]["sha256"].as_str().unwrap().to_owned()
    }

    fn level(&self) -> String {
        self.control.in_force().0.settings.log.level.clone()
    }
}

fn write(dir: &TempDir, rest: &str) {
    let config = format!(
        "[admin]\nenabled = false\n[server]\nworkers = 1\n{rest}\n\
         [[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n\
         tls.certificates = [{{ certificate = \"a.crt\", key = \"a.key\" }}]\n\
         [[route]]\nname = \"all\"\nrespond = {{ status = 200 }}\n"
    );
    std::fs::write(dir.path().join("new"), config).unwrap();
    std::fs::rename(dir.path().join("new"), dir.path().join("config.toml")).unwrap();
}

fn certify(dir: &TempDir) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    std::fs::write(dir.path().join("a.crt"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("a.key"), made.signing_key.serialize_pem()).unwrap();
}

fn logging(level: &str) -> String {
    format!("[log]\nlevel = \"{level}\"")
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let looks = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let looked = tokio::time::timeout(Duration::from_secs(60), looks).await;
    looked.unwrap_or_else(|_| panic!("it never comes to it that {what}"));
}

#[tokio::test]
async fn a_certificate_does_not_wait_for_a_configuration_that_is_wrong() {
    for on_change in ["", "reload_on_change = false"] {
        let bench = Bench::new(on_change);
        let first = bench.fingerprint();
        bench.reload("nonsense", None).await.unwrap_err();
        bench.renew().await;
        assert_ne!(bench.fingerprint(), first, "{on_change}");
    }
}

#[tokio::test]
async fn a_certificate_does_not_wait_for_a_configuration_to_be_confirmed() {
    let bench = Bench::new("");
    let confirm = Some(Duration::from_secs(60));
    bench.reload(&logging("warn"), confirm).await.unwrap();
    let first = bench.fingerprint();
    certify(&bench.dir);
    let changed = ["config.toml", "a.crt", "a.key"].map(|name| bench.file(name));
    bench.control.files_changed(&changed).await;
    assert_ne!(bench.fingerprint(), first);
}

#[tokio::test]
async fn a_rollback_shows_what_the_files_of_its_certificates_hold_since() {
    let bench = Bench::new("");
    bench.reload(&logging("warn"), None).await.unwrap();
    bench.renew().await;
    let renewed = bench.fingerprint();
    bench.control.back().await.unwrap();
    assert_eq!((bench.fingerprint(), bench.level()), (renewed, "info".to_owned()));
}

#[tokio::test]
async fn a_rollback_takes_back_the_certificates_that_came_with_the_reload() {
    let bench = Bench::new("");
    let first = bench.fingerprint();
    certify(&bench.dir);
    bench.reload(&logging("warn"), None).await.unwrap();
    assert_ne!(bench.fingerprint(), first);
    bench.control.back().await.unwrap();
    assert_eq!(bench.fingerprint(), first);
}

#[tokio::test]
async fn what_changes_while_a_configuration_waits_is_taken_in_when_it_is_settled() {
    for confirmed in [true, false] {
        let mut bench = Bench::new("");
        bench.run();
        let confirm = Some(Duration::from_secs(600));
        bench.reload(&logging("warn"), confirm).await.unwrap();
        write(&bench.dir, &logging("error"));
        eventually("the change is seen", || !bench.control.0.missed.lock().is_empty()).await;
        assert_eq!(bench.level(), "warn");
        if confirmed {
            bench.control.keep().await.unwrap();
        } else {
            bench.control.back().await.unwrap();
        }
        eventually("the change is taken in", || bench.level() == "error").await;
    }
}

#[tokio::test]
async fn what_was_rolled_back_does_not_come_back_with_another_file() {
    for (changed, taken_in) in [("secret", false), ("config.toml", true)] {
        let bench = Bench::new("");
        let confirm = Some(Duration::from_secs(600));
        bench.reload(&logging("warn"), confirm).await.unwrap();
        bench.control.files_changed(&[bench.file(changed)]).await;
        bench.control.back().await.unwrap();
        let again = tokio::time::timeout(Duration::ZERO, bench.control.0.again.notified());
        assert_eq!(again.await.is_ok(), taken_in, "{changed}");
    }
}

#[tokio::test]
async fn a_secret_that_comes_late_is_taken_in_when_it_is_there() {
    let mut bench = Bench::new("");
    bench.run();
    let guarded = "[[route]]\nname = \"guarded\"\npath = \"/guarded\"\n\
                   respond = { status = 200 }\n\
                   [route.api_key]\nkeys = [{ name = \"ci\", key = \"file:late\" }]";
    bench.reload(guarded, None).await.unwrap_err();
    std::fs::write(bench.file("late"), "a key").unwrap();
    let routes = || bench.control.in_force().0.settings.routes.len();
    eventually("the route is there", || routes() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_fails_is_tried_again() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    drop(held);
    let more = format!("[[listener]]\nname = \"more\"\naddress = \"{address}\"");
    let bench = Bench::new(&more);
    bench.reload("", Some(Duration::from_secs(30))).await.unwrap();
    let held = TcpListener::bind(address).unwrap();
    eventually("it fails", || bench.control.has_failed()).await;
    assert_eq!(bench.control.status().pending_confirm.unwrap().generation, 2);
    drop(held);
    eventually("it is rolled back", || bench.control.status().generation == 3).await;
    assert!(bench.control.status().pending_confirm.is_none());
    assert_eq!(bench.control.in_force().0.settings.listeners.len(), 2);
}

#[tokio::test]
async fn a_process_that_has_handed_over_takes_in_nothing_any_more() {
    let bench = Bench::new("");
    bench.reload(&logging("warn"), None).await.unwrap();
    bench.control.0.listeners.release();
    let refused = [
        bench.reload(&logging("error"), None).await.map(drop),
        bench.control.back().await.map(drop),
        bench.control.upgrade_now().await.map(drop),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(Refused::Conflict(_))), "{refused:?}");
    }
    assert_eq!(bench.level(), "warn");
}

#[tokio::test]
async fn reloads_that_leave_the_access_log_as_it_is_leave_it_to_one_thread() {
    let log = |level: &str| format!("{}\n[access_log]\noutput = \"access.log\"", logging(level));
    let bench = Bench::new("");
    bench.reload(&log("info"), None).await.unwrap();
    // What lasts, as a WebSocket does, keeps to the gateway that it began with.
    let mut lasting = Vec::new();
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = links.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.filter(|link| *link == bench.file("access.log")).count()
    };
    for level in ["warn", "error", "debug", "trace"] {
        lasting.push(bench.control.in_force().0.gateway.clone());
        bench.reload(&log(level), None).await.unwrap();
        assert_eq!(bench.level(), level);
    }
    eventually("one file is open", || open() == 1).await;
    drop(lasting);
}

#[tokio::test]
async fn what_a_successor_would_not_hear_of_is_not_changed() {
    let bench = Bench::new("");
    let mut under_way = Some(bench.control.unchanging().await.unwrap());
    for code in ["Conflict", "NotFound"] {
        let change = OriginChange { drained: Some(true), ..OriginChange::default() };
        for refused in [
            bench.control.set_origin("api", "a", &change).map(drop),
            bench.control.set_rate_limit_dry_run("none", None, true),
        ] {
            assert!(format!("{refused:?}").contains(code), "{refused:?}");
        }
        under_way.take();
    }
}

#[tokio::test]
async fn certificates_are_those_of_the_files_once_a_reload_has_read_them() {
    let bench = Bench::new("");
    std::fs::write(bench.file("a.crt"), "nonsense").unwrap();
    bench.control.files_changed(&[bench.file("a.crt")]).await;
    let told = |value| format!("certificate_last_reload_ok{{listener=\"tls\"}} {value}\n");
    let metrics = || bench.control.0.common.metrics.render();
    assert!(metrics().contains(&told(0)), "{}", metrics());
    certify(&bench.dir);
    bench.reload("", None).await.unwrap();
    assert!(metrics().contains(&told(1)), "{}", metrics());
}

#[tokio::test]
async fn certificates_are_followed_where_nothing_else_comes_from_a_file() {
    let first = Bench::new("");
    let settings = first.control.in_force().0.settings.clone();
    let bound = Proxy::build(settings.clone()).unwrap().bind().unwrap();
    let control = bound.control().clone();
    let mut bench = Bench { dir: first.dir, control, bound: Some(bound) };
    bench.run();
    let shown = bench.fingerprint();
    certify(&bench.dir);
    eventually("another certificate is shown", || bench.fingerprint() != shown).await;
    bench.control.reload_with(settings).await.unwrap();
    let shown = bench.fingerprint();
    certify(&bench.dir);
    eventually("and another", || bench.fingerprint() != shown).await;
}
