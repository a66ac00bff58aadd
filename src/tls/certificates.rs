//! Which certificate a client is shown.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::base::Base;
use super::client_auth::{ClientAuth, ClientAuthFile, Session};
use super::facts::CertificateFacts;
use super::tickets::{Scope, Tickets};
use super::{CertificateSettings, TlsError, TlsSettings};
use crate::context::Hosts;
use crate::pem;

/// The certificates of a listener, by the names they answer to.
#[derive(Debug)]
pub(super) struct Certificates {
    names: Arc<Names>,
    shown: Vec<Shown>,
    /// The first, for clients that ask for none of the names.
    default: Arc<ServerConfig>,
    /// How clients are judged, where they are asked for certificates. It changes with the
    /// others, all at once.
    clients: Option<ClientAuth>,
}

/// A certificate, and how hands are shaken with it.
#[derive(Debug)]
struct Shown {
    facts: CertificateFacts,
    key: Arc<CertifiedKey>,
    config: Arc<ServerConfig>,
}

/// The names, without the keys: open connections keep them.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Names {
    exact: HashMap<String, usize>,
    /// By the part after `*.`.
    wildcard: HashMap<String, usize>,
}

/// A certificate that is not as it was.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct CertificateChange {
    /// The fingerprint it had. The same as now where only the rest of the chain is new.
    pub was: String,
    /// What it is now.
    pub now: CertificateFacts,
}

impl Certificates {
    /// Reads every file that the settings name; `base` is what the certificates have in
    /// common.
    ///
    /// # Errors
    ///
    /// Every file that cannot be used.
    pub(super) fn read(
        settings: &TlsSettings,
        base: &Base,
        tickets: &Tickets,
    ) -> Result<Self, TlsError> {
        let mut problems = Vec::new();
        let (mut names, mut shown, mut default) = (Names::default(), Vec::new(), None);
        let clients = settings.client_auth.as_ref();
        let clients = clients.map(|clients| ClientAuth::read(clients, base.provider())).transpose();
        // What cannot be read lets nobody in: the problems make an end of it below.
        let clients = clients.map_err(|unfit| problems.extend(unfit)).unwrap_or_default();
        let verifier = clients
            .as_ref()
            .map_or_else(WebPkiClientVerifier::no_client_auth, ClientAuth::verifier);
        let judged = clients.as_ref().map(ClientAuth::digest);
        for one in &settings.certificates {
            match read(one, base.provider()) {
                Ok((key, facts)) => {
                    let config = |default| {
                        let resolver = Arc::new(SingleCertAndKey::from(key.clone()));
                        let scope = Scope::new(&facts.file, default, judged);
                        Arc::new(base.config(verifier.clone(), resolver, tickets.within(scope)))
                    };
                    names.add(&facts.names, shown.len());
                    default.get_or_insert_with(|| config(true));
                    shown.push(Shown { config: config(false), facts, key });
                }
                Err(problem) => problems.push(problem),
            }
        }
        if settings.certificates.is_empty() {
            problems.push("no certificate is configured".to_owned());
        }
        match default {
            Some(default) if problems.is_empty() => {
                Ok(Self { names: Arc::new(names), shown, default, clients })
            }
            _ => Err(TlsError { problems }),
        }
    }

    /// How to shake hands with a client that asks for this server name.
    /// Where clients are judged, with what is known of its session.
    pub(super) fn config(
        &self,
        name: Option<&str>,
        base: &Base,
    ) -> (Arc<ServerConfig>, Option<Session>) {
        let found = name.and_then(|name| self.names.find(name));
        let config =
            found.and_then(|at| self.shown.get(at)).map_or(&self.default, |shown| &shown.config);
        match &self.clients {
            None => (config.clone(), None),
            Some(clients) => {
                let (config, session) = clients.of_one(config, base);
                (Arc::new(config), Some(session))
            }
        }
    }

    pub(super) fn names(&self) -> &Arc<Names> {
        &self.names
    }

    pub(super) fn facts(&self) -> impl Iterator<Item = &CertificateFacts> {
        self.shown.iter().map(|shown| &shown.facts)
    }

    /// The files by which clients are judged.
    pub(super) fn client_auth(&self) -> &[ClientAuthFile] {
        self.clients.as_ref().map_or(&[], ClientAuth::files)
    }

    /// Whether clients are judged as those of `other` are.
    pub(super) fn judges_like(&self, other: &Self) -> bool {
        self.clients.as_ref().map(ClientAuth::digest)
            == other.clients.as_ref().map(ClientAuth::digest)
    }

    /// Why these must not take the place of `running`: a certificate is not valid, and
    /// the one that came from its file before still is, or a list of revocations is out
    /// of date.
    pub(super) fn worse_than(&self, running: &Self, now: i64) -> Vec<String> {
        let good =
            |file: &PathBuf| running.facts().any(|old| old.file == *file && old.is_valid_at(now));
        let worse = self.facts().filter(|new| !new.is_valid_at(now) && good(&new.file));
        let worse = worse.map(|new| {
            let file = new.file.display();
            if now > new.not_after_seconds {
                format!("the certificate in {file} expired at {}", new.not_after)
            } else {
                format!("the certificate in {file} is not valid before {}", new.not_before)
            }
        });
        let both = self.clients.as_ref().zip(running.clients.as_ref());
        let judged = both.map(|(new, old)| new.worse_than(old, now));
        worse.chain(judged.into_iter().flatten()).collect()
    }

    /// What these, of the same settings, change of `running`.
    pub(super) fn changes(&self, running: &Self) -> Vec<CertificateChange> {
        let both = self.shown.iter().zip(&running.shown);
        both.filter(|(new, old)| new.key.cert != old.key.cert)
            .map(|(new, old)| CertificateChange {
                was: old.facts.sha256.clone(),
                now: new.facts.clone(),
            })
            .collect()
    }

    /// Keeps the names of `running` where they are the same.
    pub(super) fn share_names(&mut self, running: &Self) {
        if self.names == running.names {
            self.names = running.names.clone();
        }
    }
}

impl Names {
    /// A name that is taken already stays with who has it.
    fn add(&mut self, names: &[String], at: usize) {
        for name in names {
            let (map, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name.as_str()),
            };
            map.entry(name.to_owned()).or_insert(at);
        }
    }

    /// The certificate for this server name: exact, then one label of
    /// wildcard (RFC 9525 §6.3).
    fn find(&self, name: &str) -> Option<usize> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(&name).or_else(wildcard).copied()
    }
}

impl Hosts for Names {
    fn are_alike(&self, server_name: &str, host: &str) -> bool {
        let shown = |name| self.find(name).unwrap_or(0);
        shown(server_name) == shown(host)
    }
}

fn read(
    settings: &CertificateSettings,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, CertificateFacts), String> {
    let chain = pem::read_certificates(&settings.certificate).map_err(|error| chained(&error));
    let key = pem::read_key(&settings.key).map_err(|error| chained(&error));
    let (chain, key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (Err(chain), Err(key)) => return Err(format!("{chain}; {key}")),
        (Err(problem), Ok(_)) | (Ok(_), Err(problem)) => return Err(problem),
    };
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "the key in {} does not belong to the certificate in {}",
            settings.key.display(),
            settings.certificate.display()
        ),
        error => format!(
            "{} with {} cannot be used: {error}",
            settings.certificate.display(),
            settings.key.display()
        ),
    })?;
    let file: PathBuf = settings.certificate.clone();
    let facts = CertificateFacts::of(file, names(settings, &key), &key.cert)?;
    Ok((Arc::new(key), facts))
}

/// The names a certificate answers to, in lower case.
fn names(settings: &CertificateSettings, key: &CertifiedKey) -> Vec<String> {
    if !settings.names.is_empty() {
        return settings.names.iter().map(|name| name.to_ascii_lowercase()).collect();
    }
    let parsed = key.cert.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
    parsed
        .map_or_else(Vec::new, |leaf| leaf.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

pub(super) fn chained(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
