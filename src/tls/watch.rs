//! Watches over the certificates in use: metrics, reloads that failed, and warnings
//! before they expire.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{
    CertificateFacts, ClientAuthFile, ClientAuthHolds, Reloaded, TlsAcceptor, TlsError,
    UnknownRevocation,
};
use crate::observe::{CertificateReload, Metrics};

/// How often the certificates are looked at. Files whose change was missed, or that
/// are good only now, are found as fast.
const LOOK: Duration = Duration::from_secs(60);
/// How often the log repeats itself about one certificate, in seconds.
const REPEAT: i64 = 24 * 60 * 60;

/// A listener's name, with its TLS.
type Named = (Arc<str>, TlsAcceptor);

/// Reads the certificates of a listener again, which the log and the metrics are told.
///
/// # Errors
///
/// Those of [`TlsAcceptor::reload`].
pub fn reload(
    listener: &Arc<str>,
    acceptor: &TlsAcceptor,
    metrics: &Metrics,
) -> Result<Reloaded, TlsError> {
    let reloaded = acceptor.reload();
    report(listener, acceptor, metrics, &reloaded);
    reloaded
}

fn report(
    listener: &Arc<str>,
    acceptor: &TlsAcceptor,
    metrics: &Metrics,
    reloaded: &Result<Reloaded, TlsError>,
) {
    let result = match reloaded {
        Ok(reloaded) if reloaded.is_unchanged() => CertificateReload::Unchanged,
        Ok(_) => CertificateReload::Changed,
        Err(error) => {
            tracing::error!(
                listener = &**listener,
                %error,
                "certificates cannot be reloaded; those in use are kept"
            );
            CertificateReload::Failed
        }
    };
    for change in reloaded.iter().flat_map(|reloaded| &reloaded.changed) {
        tracing::info!(
            listener = &**listener,
            certificate = %change.now.file.display(),
            not_after = change.now.not_after,
            sha256 = change.now.sha256,
            was = change.was,
            "certificate reloaded"
        );
    }
    if reloaded.as_ref().is_ok_and(|reloaded| reloaded.clients) {
        for one in acceptor.client_auth() {
            let (file, sha256) = (one.file.display(), one.sha256);
            tracing::info!(listener = &**listener, %file, sha256, "clients are judged anew");
        }
    }
    metrics.certificates_reloaded(listener, result);
    show_one(listener, acceptor, metrics);
}

/// Tells the metrics which certificates are in use, and whether they are those in the
/// files: those of these listeners, and no others.
pub fn show(in_use: &[(Arc<str>, TlsAcceptor)], metrics: &Metrics) {
    let listeners: Vec<_> = in_use.iter().map(|(listener, _)| listener.clone()).collect();
    metrics.certificates_only_of(&listeners);
    for (listener, acceptor) in in_use {
        show_one(listener, acceptor, metrics);
        metrics.certificates_current(listener, !acceptor.has_failed());
    }
}

/// Tells the metrics of certificates that have just been read with a configuration
/// which is in force now: whatever failed before is settled.
pub fn taken_in(in_use: &[(Arc<str>, TlsAcceptor)], metrics: &Metrics) {
    for (listener, acceptor) in in_use {
        acceptor.settle();
        metrics.certificates_reloaded(listener, CertificateReload::Unchanged);
    }
    show(in_use, metrics);
}

fn show_one(listener: &Arc<str>, acceptor: &TlsAcceptor, metrics: &Metrics) {
    let (facts, clients) = (acceptor.certificates(), acceptor.client_auth());
    let shown = facts.iter().map(|one| (one.file.to_string_lossy(), one.not_after_seconds));
    let clients = clients.iter().filter(|one| one.not_after_seconds < i64::MAX);
    let judge = clients.map(|one| (one.file.to_string_lossy(), one.not_after_seconds));
    metrics.certificates_shown(listener, shown.chain(judge));
}

/// Watches over the certificates in use, which `in_use` tells whenever it is asked, and
/// never ends. Once a minute it tells the metrics which there are, tries those again
/// whose last reload failed, and warns of what is about to expire or has expired:
/// at once, and then once a day for each certificate.
pub async fn keep_watch(in_use: impl Fn() -> Vec<(Arc<str>, TlsAcceptor)>, metrics: Metrics) {
    let mut watch = Watch::default();
    loop {
        watch.look(&in_use(), &metrics, jiff::Timestamp::now().as_second());
        tokio::time::sleep(LOOK).await;
    }
}

/// When the log was last told of a certificate, or of a file by which clients are
/// judged: by listener and digest.
#[derive(Default)]
pub(super) struct Watch(HashMap<(Arc<str>, String), i64>);

/// What is to be said of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outlook {
    Good,
    NotYetValid,
    /// It expires in so many seconds.
    Ends(i64),
    Expired,
}

impl Watch {
    /// Returns what it had to say.
    pub(super) fn look(&mut self, in_use: &[Named], metrics: &Metrics, now: i64) -> Vec<Outlook> {
        show(in_use, metrics);
        let mut told = HashMap::new();
        let mut said = Vec::new();
        for (listener, acceptor) in in_use {
            if acceptor.has_failed() {
                let reloaded = acceptor.reload();
                // What failed was said when it did.
                if reloaded.is_ok() {
                    report(listener, acceptor, metrics, &reloaded);
                }
            }
            let warning = acceptor.settings().expiry_warning;
            let mut look_at = |sha256: &str, validity, tell: &dyn Fn(Outlook)| {
                let outlook = outlook(validity, warning, now);
                if outlook == Outlook::Good {
                    return;
                }
                let key = (listener.clone(), sha256.to_owned());
                let last = self.0.get(&key).copied();
                // A clock that was put back makes it old, too.
                let last = last.filter(|last| (0..REPEAT).contains(&(now - last)));
                if last.is_none() && !told.contains_key(&key) {
                    tell(outlook);
                    said.push(outlook);
                }
                told.entry(key).or_insert_with(|| last.unwrap_or(now));
            };
            for one in acceptor.certificates() {
                let validity = (one.not_before_seconds, one.not_after_seconds);
                look_at(&one.sha256, validity, &|outlook| tell(listener, &one, outlook));
            }
            for one in acceptor.client_auth() {
                let validity = (one.not_before_seconds, one.not_after_seconds);
                look_at(&one.sha256, validity, &|outlook| tell_of_clients(listener, &one, outlook));
            }
        }
        self.0 = told;
        said
    }
}

fn outlook((from, until): (i64, i64), warning: Duration, now: i64) -> Outlook {
    if now < from {
        return Outlook::NotYetValid;
    }
    let left = until.saturating_sub(now);
    if left < 0 {
        return Outlook::Expired;
    }
    // One that is made for a week would be warned of from the first day on.
    let third = until.saturating_sub(from) / 3;
    let warning = i64::try_from(warning.as_secs()).unwrap_or(i64::MAX).min(third);
    if left < warning { Outlook::Ends(left) } else { Outlook::Good }
}

fn tell(listener: &str, facts: &CertificateFacts, outlook: Outlook) {
    let (certificate, not_after) = (facts.file.display(), &facts.not_after);
    match outlook {
        Outlook::Good => {}
        Outlook::NotYetValid => {
            let not_before = &facts.not_before;
            tracing::error!(listener, %certificate, not_before, "the certificate is not valid yet");
        }
        Outlook::Ends(left) => {
            let days = left / REPEAT;
            tracing::warn!(listener, %certificate, not_after, days, "the certificate expires soon");
        }
        Outlook::Expired => {
            tracing::error!(listener, %certificate, not_after, "the certificate has expired");
        }
    }
}

fn tell_of_clients(listener: &str, one: &ClientAuthFile, outlook: Outlook) {
    let file = one.file.display();
    match (outlook, one.holds) {
        (Outlook::Good, _) => {}
        (Outlook::NotYetValid, _) => {
            tracing::warn!(listener, %file, "what clients are judged by is not valid yet");
        }
        (Outlook::Ends(left), ClientAuthHolds::Authorities) => {
            let days = left / REPEAT;
            tracing::warn!(listener, %file, days, "a certificate authority of clients expires soon");
        }
        (Outlook::Expired, ClientAuthHolds::Authorities) => {
            tracing::warn!(listener, %file, "a certificate authority of clients has expired");
        }
        (Outlook::Ends(left), ClientAuthHolds::Revocations(_)) => {
            let hours = left / 3_600;
            tracing::warn!(listener, %file, hours, "the successor of a revocation list is due soon");
        }
        (Outlook::Expired, ClientAuthHolds::Revocations(UnknownRevocation::Refuse)) => {
            tracing::error!(
                listener, %file,
                "a revocation list is out of date; the clients that it is about are refused"
            );
        }
        (Outlook::Expired, ClientAuthHolds::Revocations(UnknownRevocation::Accept)) => {
            tracing::error!(
                listener, %file,
                "a revocation list is out of date; it says nothing of what was revoked since"
            );
        }
    }
}
