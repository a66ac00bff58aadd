//! Which certificate a client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{CertificateSettings, TlsError};
use crate::context::Hosts;
use crate::pem;

/// The certificates of a listener, by the names they answer to.
#[derive(Debug)]
pub(super) struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By the part after `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl Certificates {
    /// Reads every certificate and key.
    ///
    /// # Errors
    ///
    /// Every file that cannot be used.
    pub(super) fn read(
        settings: &[CertificateSettings],
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let mut problems = Vec::new();
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        let mut default = None;
        for one in settings {
            let key = match certified_key(one, provider) {
                Ok(key) => Arc::new(key),
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            for name in names(one, &key) {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent.to_owned()),
                    None => (&mut exact, name),
                };
                map.entry(name).or_insert_with(|| key.clone());
            }
            default.get_or_insert(key);
        }
        match default {
            Some(default) if problems.is_empty() => Ok(Self { exact, wildcard, default }),
            Some(_) => Err(TlsError { problems }),
            None => {
                problems.push("no certificate is configured".to_owned());
                Err(TlsError { problems })
            }
        }
    }

    /// The certificate for this server name: exact, then one label of
    /// wildcard (RFC 9525 §6.3), then the default.
    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name else { return &self.default };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.exact
            .get(&name)
            .or_else(|| self.wildcard.get(name.split_once('.')?.1))
            .unwrap_or(&self.default)
    }
}

impl Hosts for Certificates {
    fn are_alike(&self, server_name: &str, host: &str) -> bool {
        Arc::ptr_eq(self.find(Some(server_name)), self.find(Some(host)))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name()).clone())
    }
}

fn certified_key(
    settings: &CertificateSettings,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let chain = pem::read_certificates(&settings.certificate).map_err(|error| chained(&error))?;
    let key = pem::read_key(&settings.key).map_err(|error| chained(&error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
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
    })
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

fn chained(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
