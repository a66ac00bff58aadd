//! Certificates of clients: who vouches for them, and which of them are revoked.

mod authorities;
mod certificate;
mod name;
mod session;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::{self, AnyRef, Decode, Reader, SliceReader, Tag};
use x509_cert::time::Time;

use self::authorities::Authorities;
use self::session::{Bounded, Noting};
use super::base::Base;
use super::certificates::chained;
use super::facts::rfc3339;
use super::{ClientAuthMode, ClientAuthSettings, UnknownRevocation};
use crate::hex::hex;
use crate::pem;

pub(super) use certificate::client_certificate;
pub(super) use session::Session;

/// How the clients of a listener are judged.
#[derive(Debug)]
pub(super) struct ClientAuth {
    verifier: Arc<dyn ClientCertVerifier>,
    authorities: Arc<Authorities>,
    /// Of all that the judgement depends on: settings, authorities, revocations.
    digest: [u8; 32],
    files: Vec<ClientAuthFile>,
}

/// A file by which clients are judged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientAuthFile {
    /// Where it is.
    pub file: PathBuf,
    /// What it holds.
    pub holds: ClientAuthHolds,
    /// SHA-256 of what it holds, in hexadecimal.
    pub sha256: String,
    /// From when all that it holds is valid, in seconds of the epoch.
    pub not_before_seconds: i64,
    /// Until when all that it holds is: [`i64::MAX`] if it does not say.
    pub not_after_seconds: i64,
}

/// What a file holds by which clients are judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientAuthHolds {
    /// Certificate authorities. That one has expired is no reason to refuse whom it
    /// vouches for: what is trusted is its key.
    Authorities,
    /// Lists of revoked certificates. Their validity ends when their successors are due.
    Revocations(UnknownRevocation),
}

/// A list of revoked certificates.
struct Revocations {
    this_update: i64,
    next_update: Option<i64>,
    der: CertificateRevocationListDer<'static>,
    read: CertRevocationList<'static>,
}

impl ClientAuth {
    /// Reads all files.
    ///
    /// # Errors
    ///
    /// Every file that cannot be used.
    pub(super) fn read(
        settings: &ClientAuthSettings,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Vec<String>> {
        let ClientAuthSettings { ca, mode, revoked, unknown_revocation } = settings;
        let (mut problems, mut files, mut lists) = (Vec::new(), Vec::new(), Vec::new());
        let mut digest = Sha256::new();
        digest.update([*mode as u8, *unknown_revocation as u8, u8::from(revoked.is_empty())]);
        let roots = authorities(ca).map_err(|problem| problems.push(problem));
        for path in revoked {
            match revocations(path) {
                Ok(found) => {
                    files.push(ClientAuthFile::of_lists(path, &found, *unknown_revocation));
                    lists.extend(found);
                }
                Err(problem) => problems.push(problem),
            }
        }
        let Ok((roots, names, file)) = roots else { return Err(problems) };
        if !problems.is_empty() {
            return Err(problems);
        }
        files.insert(0, file);
        for file in &files {
            // All are of one length.
            digest.update(&file.sha256);
        }
        // Of two lists of one issuer the first is looked at.
        lists.sort_by_key(|list| std::cmp::Reverse(list.this_update));
        let roots = Arc::new(roots);
        let (lists, read): (Vec<_>, _) =
            lists.into_iter().map(|list| (list.der, list.read)).unzip();
        let authorities =
            Authorities::new(roots.clone(), names, read, *unknown_revocation, provider);
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).with_crls(lists);
        let builder = match mode {
            ClientAuthMode::Require => builder,
            ClientAuthMode::Request => builder.allow_unauthenticated(),
        };
        let builder = match unknown_revocation {
            UnknownRevocation::Refuse => builder.enforce_revocation_expiration(),
            UnknownRevocation::Accept => builder.allow_unknown_revocation_status(),
        };
        let verifier = builder.build().map_err(|error| {
            vec![format!("clients cannot be judged by {}: {error}", ca.display())]
        })?;
        let (authorities, digest) = (Arc::new(authorities), digest.finalize().into());
        Ok(Self { verifier, authorities, digest, files })
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(super) fn files(&self) -> &[ClientAuthFile] {
        &self.files
    }

    /// The same way to shake hands, for one connection: its tickets know how long its
    /// client's certificate is good for, and who vouches for it.
    pub(super) fn of_one(&self, config: &ServerConfig, base: &Base) -> (ServerConfig, Session) {
        let session = Session::with(self.authorities.clone());
        let verifier = Noting { inner: self.verifier.clone(), session: session.clone() };
        let tickets = Bounded { inner: config.ticketer.clone(), session: session.clone() };
        let (verifier, tickets) = (Arc::new(verifier), Arc::new(tickets));
        (base.config(verifier, config.cert_resolver.clone(), tickets), session)
    }

    /// Why this must not take the place of `running`: it would refuse everybody whose
    /// revocation it cannot tell, and `running` does not.
    pub(super) fn worse_than<'a>(
        &'a self,
        running: &'a Self,
        now: i64,
    ) -> impl Iterator<Item = String> + 'a {
        let good = move |file: &Path| {
            running.files.iter().any(|old| old.file == file && now <= old.not_after_seconds)
        };
        let refuses = ClientAuthHolds::Revocations(UnknownRevocation::Refuse);
        let worse = self.files.iter().filter(move |new| {
            new.holds == refuses && now > new.not_after_seconds && good(&new.file)
        });
        worse.map(|new| {
            let due = rfc3339(new.not_after_seconds);
            format!("the successor of a revocation list in {} was due at {due}", new.file.display())
        })
    }
}

impl ClientAuthFile {
    fn of_lists(path: &Path, lists: &[Revocations], unknown: UnknownRevocation) -> Self {
        let ends = lists.iter().filter_map(|list| list.next_update);
        Self {
            file: path.to_owned(),
            holds: ClientAuthHolds::Revocations(unknown),
            sha256: digest_of(lists.iter().map(|list| &*list.der)),
            not_before_seconds: lists.iter().map(|list| list.this_update).max().unwrap_or(0),
            not_after_seconds: ends.min().unwrap_or(i64::MAX),
        }
    }
}

/// Those in the file, with their names, in one order.
fn authorities(path: &Path) -> Result<(RootCertStore, Vec<Box<str>>, ClientAuthFile), String> {
    let certificates = pem::read_certificates(path).map_err(|error| chained(&error))?;
    let mut file = ClientAuthFile {
        file: path.to_owned(),
        holds: ClientAuthHolds::Authorities,
        sha256: digest_of(certificates.iter().map(|one| &**one)),
        not_before_seconds: i64::MIN,
        not_after_seconds: i64::MAX,
    };
    let (mut roots, mut names) = (RootCertStore::empty(), Vec::new());
    for (at, one) in certificates.into_iter().enumerate() {
        let unfit = |error: &dyn std::fmt::Display| {
            format!("certificate {} in {} cannot be trusted: {error}", at + 1, path.display())
        };
        let read = CertificateInner::<Raw>::from_der(&one).map_err(|error| unfit(&error))?;
        let validity = read.tbs_certificate().validity();
        file.not_before_seconds = file.not_before_seconds.max(seconds(validity.not_before));
        file.not_after_seconds = file.not_after_seconds.min(seconds(validity.not_after));
        names.push(name::text(read.tbs_certificate().subject()).into());
        roots.add(one).map_err(|error| unfit(&error))?;
    }
    Ok((roots, names, file))
}

fn revocations(path: &Path) -> Result<Vec<Revocations>, String> {
    let lists = pem::read_revocation_lists(path).map_err(|error| chained(&error))?;
    let read = lists.into_iter().enumerate().map(|(at, der)| {
        let unfit = |error: &dyn std::fmt::Display| {
            format!("revocation list {} in {} cannot be used: {error}", at + 1, path.display())
        };
        let read = OwnedCertRevocationList::from_der(&der).map_err(|error| unfit(&error))?;
        let (this_update, next_update) = updates(&der).map_err(|error| unfit(&error))?;
        Ok(Revocations { this_update, next_update, der, read: read.into() })
    });
    read.collect()
}

/// When a list was made, and when its successor is due (RFC 5280 §5.1.2). All that comes
/// behind, which may be much, is not looked at.
fn updates(der: &[u8]) -> der::Result<(i64, Option<i64>)> {
    let list = AnyRef::from_der(der)?;
    let tbs = AnyRef::decode(&mut SliceReader::new(list.value())?)?;
    let mut tbs = SliceReader::new(tbs.value())?;
    if Tag::peek(&tbs)? == Tag::Integer {
        let _version = AnyRef::decode(&mut tbs)?;
    }
    let (_signature, _issuer) = (AnyRef::decode(&mut tbs)?, AnyRef::decode(&mut tbs)?);
    let this_update = seconds(Time::decode(&mut tbs)?);
    let next =
        !tbs.is_finished() && matches!(Tag::peek(&tbs)?, Tag::UtcTime | Tag::GeneralizedTime);
    let next_update = next.then(|| Time::decode(&mut tbs)).transpose()?;
    Ok((this_update, next_update.map(seconds)))
}

fn digest_of<'a>(all: impl Iterator<Item = &'a [u8]>) -> String {
    // DER says itself how long it is.
    let digest = all.fold(Sha256::new(), Sha256::chain_update);
    hex(&digest.finalize())
}

fn seconds(time: Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}
