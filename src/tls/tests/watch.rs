//! The watch over certificates in use.

use super::super::watch::{Outlook, Watch};
use super::*;
use crate::observe::Metrics;

fn named(server: &TlsAcceptor) -> Vec<(Arc<str>, TlsAcceptor)> {
    vec![("public".into(), server.clone())]
}

#[test]
fn warnings_come_in_time_and_once_a_day() {
    let dir = TempDir::new().unwrap();
    let settings = TlsSettings::new(vec![valid(dir.path(), "a", &["a.test"], -1, 89)]);
    let in_use = named(&acceptor(&settings).unwrap());
    let end = in_use[0].1.certificates()[0].not_after_seconds;
    let (metrics, mut watch) = (Metrics::default(), Watch::default());
    let mut look = |at| watch.look(&in_use, &metrics, at);
    assert_eq!(look(end - 14 * DAY), []);
    assert_eq!(look(end - 14 * DAY + 1), [Outlook::Ends(14 * DAY - 1)]);
    assert_eq!(look(end - 14 * DAY + 60), []);
    assert_eq!(look(end - 13 * DAY), []);
    assert_eq!(look(end - 13 * DAY + 1), [Outlook::Ends(13 * DAY - 1)]);
    assert_eq!(look(end), [Outlook::Ends(0)]);
    assert_eq!(look(end + DAY), [Outlook::Expired]);
    // A new one has not been spoken of.
    valid(dir.path(), "a", &["a.test"], -1, 2);
    assert_eq!(in_use[0].1.reload().unwrap().changed.len(), 1);
    assert_eq!(look(end + DAY + 1), [Outlook::Expired]);
    assert_eq!(look(now() - 2 * DAY), [Outlook::NotYetValid]);
}

#[test]
fn a_short_life_is_warned_of_in_its_last_third_and_none_where_it_is_off() {
    let dir = TempDir::new().unwrap();
    let mut settings = TlsSettings::new(vec![valid(dir.path(), "a", &["a.test"], 0, 6)]);
    let in_use = named(&acceptor(&settings).unwrap());
    let end = in_use[0].1.certificates()[0].not_after_seconds;
    let look = |in_use: &[_], at| Watch::default().look(in_use, &Metrics::default(), at);
    assert_eq!(look(&in_use, end - 2 * DAY), []);
    assert_eq!(look(&in_use, end - 2 * DAY + 1), [Outlook::Ends(2 * DAY - 1)]);
    settings.expiry_warning = Duration::ZERO;
    let in_use = named(&acceptor(&settings).unwrap());
    assert_eq!(look(&in_use, end), []);
    assert_eq!(look(&in_use, end + 1), [Outlook::Expired]);
}

#[test]
fn what_failed_is_tried_again_and_the_metrics_follow() {
    let dir = TempDir::new().unwrap();
    let settings = vec![valid(dir.path(), "a", &["a.test"], -1, 50)];
    let server = acceptor(&TlsSettings::new(settings.clone())).unwrap();
    let (in_use, metrics, mut watch) = (named(&server), Metrics::default(), Watch::default());
    let has = |line: &str| {
        let text = metrics.render();
        assert!(
            text.lines().any(|l| l == format!("tollgate_certificate_{line}")),
            "{line}\n{text}"
        );
    };
    let shown = |server: &TlsAcceptor| {
        let (file, end) =
            (settings[0].certificate.display(), server.certificates()[0].not_after_seconds);
        format!("not_after_seconds{{listener=\"public\",certificate=\"{file}\"}} {end}")
    };
    watch.look(&in_use, &metrics, now());
    let before = shown(&server);
    has(&before);

    let key = std::fs::read(&settings[0].key).unwrap();
    std::fs::write(&settings[0].key, "").unwrap();
    assert!(reload(&in_use[0].0, &server, &metrics).is_err());
    watch.look(&in_use, &metrics, now());
    watch.look(&in_use, &metrics, now());
    has("reloads_total{listener=\"public\",result=\"failed\"} 1");
    has("last_reload_ok{listener=\"public\"} 0");
    has(&before);

    // As it was before: nothing has changed, and all is well.
    std::fs::write(&settings[0].key, key).unwrap();
    watch.look(&in_use, &metrics, now());
    has("reloads_total{listener=\"public\",result=\"ok\"} 0");
    has("last_reload_ok{listener=\"public\"} 1");

    std::fs::write(&settings[0].key, "").unwrap();
    assert!(reload(&in_use[0].0, &server, &metrics).is_err());
    valid(dir.path(), "a", &["a.test"], -1, 70);
    watch.look(&in_use, &metrics, now());
    assert_ne!(shown(&server), before);
    has(&shown(&server));
    has("reloads_total{listener=\"public\",result=\"ok\"} 1");
    has("reloads_total{listener=\"public\",result=\"failed\"} 2");

    watch.look(&[], &metrics, now());
    assert!(!metrics.render().contains("tollgate_certificate"));
}

#[test]
fn what_failed_may_come_with_another_configuration() {
    let dir = TempDir::new().unwrap();
    let settings = TlsSettings::new(vec![valid(dir.path(), "a", &["a.test"], -1, 50)]);
    let (server, metrics) = (acceptor(&settings).unwrap(), Metrics::default());
    let current = |value: u8| {
        let line = format!("last_reload_ok{{listener=\"public\"}} {value}\n");
        assert!(metrics.render().contains(&line), "{}", metrics.render());
    };
    std::fs::write(&settings.certificates[0].key, "").unwrap();
    assert!(reload(&"public".into(), &server, &metrics).is_err());
    show(&named(&server), &metrics);
    current(0);
    valid(dir.path(), "a", &["a.test"], -1, 60);
    show(&named(&server.renewed(&settings, true, true).unwrap()), &metrics);
    current(1);
}
