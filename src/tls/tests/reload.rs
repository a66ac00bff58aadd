//! Files that change under a listener.

use super::*;

/// Trusts what is in the files now, and resumes nothing.
fn fresh(settings: &[CertificateSettings]) -> Arc<ClientConfig> {
    let mut config = client(trusting(settings), &[], false);
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

#[tokio::test]
async fn who_comes_after_a_reload_is_shown_the_new_certificate_and_who_is_there_stays() {
    let dir = TempDir::new().unwrap();
    let settings = vec![certificate(dir.path(), "a", &["a.test"])];
    let old = leaf(&settings[0]);
    let server = acceptor(&TlsSettings::new(settings.clone())).unwrap();
    assert!(server.reload().unwrap().is_unchanged());
    let mut before = meet(&server, &fresh(&settings), "a.test").await.unwrap();
    assert_eq!(before.leaf, old);

    let was = server.certificates()[0].sha256.clone();
    certificate(dir.path(), "a", &["a.test"]);
    let still = meet(&server, &fresh(&settings), "a.test").await;
    assert!(still.is_none(), "the new file is in use without a reload");
    let reloaded = server.reload().unwrap();
    let facts = server.certificates();
    assert_eq!(reloaded.changed, [CertificateChange { was, now: facts[0].clone() }]);
    assert!(server.reload().unwrap().is_unchanged());

    let after = meet(&server.clone(), &fresh(&settings), "a.test").await.unwrap();
    assert_eq!(after.leaf, leaf(&settings[0]));
    assert_ne!(after.leaf, old);
    before.client.write_u8(3).await.unwrap();
    before.client.flush().await.unwrap();
    assert_eq!(before.server.read_u8().await.unwrap(), 3);
}

#[tokio::test]
async fn one_that_shakes_hands_meanwhile_ends_as_it_began() {
    let dir = TempDir::new().unwrap();
    let settings = vec![certificate(dir.path(), "a", &["a.test"])];
    let server = acceptor(&TlsSettings::new(settings.clone())).unwrap();
    let client = fresh(&settings);
    // So narrow that the server cannot say all that it has to before it is read.
    let (here, there) = tokio::io::duplex(512);
    let mut accept = Box::pin(server.accept(there));
    let name = ServerName::try_from("a.test").unwrap();
    let mut connect = Box::pin(tokio_rustls::TlsConnector::from(client).connect(name, here));
    while Arc::strong_count(&server.0.certificates.load().config(Some("a.test"), &server.0.base).0)
        < 3
    {
        assert!(futures_util::poll!(&mut connect).is_pending());
        assert!(futures_util::poll!(&mut accept).is_pending());
    }
    certificate(dir.path(), "a", &["a.test"]);
    assert!(!server.reload().unwrap().is_unchanged());
    let (accepted, connected) = tokio::join!(accept, connect);
    assert!(accepted.is_ok());
    assert!(connected.is_ok(), "it was not shown the certificate it trusts");
}

#[tokio::test]
async fn a_broken_file_leaves_all_as_it_was_and_is_named() {
    let dir = TempDir::new().unwrap();
    let good = certificate(dir.path(), "good", &["good.test"]);
    let other = certificate(dir.path(), "other", &["other.test"]);
    let settings = vec![good.clone(), other.clone()];
    let server = acceptor(&TlsSettings::new(settings.clone())).unwrap();
    let client = fresh(&settings);
    let before = server.certificates();
    // The first would be fine.
    certificate(dir.path(), "good", &["good.test"]);
    let pem = std::fs::read_to_string(&other.certificate).unwrap();
    for (broken, says) in [
        (String::new(), "holds no certificate"),
        (pem[..pem.len() / 2].to_owned(), "PEM"),
        (pem.replace("MII", "AAA"), "other.crt"),
    ] {
        std::fs::write(&other.certificate, broken).unwrap();
        let error = server.reload().unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
        let text = error.to_string();
        assert!(text.contains("other.crt") && text.contains(says), "{text}");
        assert!(server.has_failed());
        assert_eq!(server.certificates(), before);
        assert!(meet(&server, &client, "good.test").await.is_some());
    }
    std::fs::remove_file(&good.key).unwrap();
    let error = server.reload().unwrap_err();
    assert_eq!(error.problems().len(), 2, "{error}");

    certificate(dir.path(), "good", &["good.test"]);
    std::fs::write(&other.certificate, pem).unwrap();
    let reloaded = server.reload().unwrap();
    let changed: Vec<_> = reloaded.changed.iter().map(|change| &change.now.file).collect();
    assert_eq!(changed, [&good.certificate], "only what has changed is told");
    assert!(!server.has_failed());
}

#[tokio::test]
async fn a_certificate_waits_for_its_key() {
    let dir = TempDir::new().unwrap();
    let settings = vec![certificate(dir.path(), "a", &["a.test"])];
    let server = acceptor(&TlsSettings::new(settings.clone())).unwrap();
    let client = fresh(&settings);
    let next_dir = TempDir::new().unwrap();
    let next = certificate(next_dir.path(), "a", &["a.test"]);
    std::fs::copy(&next.certificate, &settings[0].certificate).unwrap();
    let error = server.reload().unwrap_err();
    assert!(error.to_string().contains("does not belong"), "{error}");
    assert!(meet(&server, &client, "a.test").await.is_some());
    std::fs::copy(&next.key, &settings[0].key).unwrap();
    assert_eq!(server.reload().unwrap().changed.len(), 1);
    let after = meet(&server, &fresh(&settings), "a.test").await.unwrap();
    assert_eq!(after.leaf, leaf(&next));
}

#[test]
fn one_that_is_not_valid_takes_the_place_only_of_another_such() {
    let dir = TempDir::new().unwrap();
    let make = |from, until| valid(dir.path(), "a", &["a.test"], from, until);
    let server = acceptor(&TlsSettings::new(vec![make(-10, 10)])).unwrap();
    make(-10, -1);
    let error = server.reload().unwrap_err().to_string();
    assert!(error.contains("a.crt expired at "), "{error}");
    make(1, 20);
    let error = server.reload().unwrap_err().to_string();
    assert!(error.contains("a.crt is not valid before "), "{error}");
    assert!(server.renewed(server.settings(), true, true).is_err());
    assert!(server.certificates()[0].is_valid_at(now()));

    make(-10, -1);
    let server = acceptor(server.settings()).unwrap();
    make(-10, -2);
    assert_eq!(server.reload().unwrap().changed.len(), 1);
    make(-1, 10);
    assert_eq!(server.reload().unwrap().changed.len(), 1);
}

#[tokio::test]
async fn connections_are_judged_by_the_certificates_they_were_shown() {
    let dir = TempDir::new().unwrap();
    let settings = vec![
        certificate(dir.path(), "a", &["a.test", "b.test"]),
        certificate(dir.path(), "c", &["c.test"]),
    ];
    let server = acceptor(&TlsSettings::new(settings.clone())).unwrap();
    let names = server.0.certificates.load().names().clone();
    let before = meet(&server, &fresh(&settings), "a.test").await.unwrap();
    // The same names: nothing new to keep.
    certificate(dir.path(), "a", &["a.test", "b.test"]);
    assert_eq!(server.reload().unwrap().changed.len(), 1);
    assert!(Arc::ptr_eq(&names, server.0.certificates.load().names()));
    // b.test moves to the other certificate.
    certificate(dir.path(), "a", &["a.test"]);
    certificate(dir.path(), "c", &["c.test", "b.test"]);
    assert_eq!(server.reload().unwrap().changed.len(), 2);
    let after = meet(&server, &fresh(&settings), "a.test").await.unwrap();
    let alike = |met: &Met, host: &str| met.facts.hosts.as_ref().unwrap().are_alike("a.test", host);
    assert!(alike(&before, "b.test"), "the client has seen a certificate for it");
    assert!(!alike(&after, "b.test"));
    assert!(!alike(&before, "c.test") && !alike(&after, "c.test"));
}

#[test]
fn what_is_in_use_is_told() {
    let dir = TempDir::new().unwrap();
    let mut one = certificate(dir.path(), "a", &["A.test", "*.b.test"]);
    let server = acceptor(&TlsSettings::new(vec![one.clone(), one.clone()])).unwrap();
    assert_eq!(server.files(), [one.certificate.clone(), one.key.clone()]);
    let facts = &server.certificates()[0];
    assert_eq!(facts.names, ["a.test", "*.b.test"]);
    assert_eq!(facts.sha256.len(), 64);
    let json = serde_json::to_value(facts).unwrap();
    assert_eq!(json["file"], one.certificate.to_str().unwrap());
    let times = [("not_before", facts.not_before_seconds), ("not_after", facts.not_after_seconds)];
    for (key, seconds) in times {
        let time: jiff::Timestamp = json[key].as_str().unwrap().parse().unwrap();
        assert_eq!(time.as_second(), seconds);
    }
    one.names = vec!["Other.test".to_owned()];
    let server = acceptor(&TlsSettings::new(vec![one])).unwrap();
    assert_eq!(server.certificates()[0].names, ["other.test"]);
}
