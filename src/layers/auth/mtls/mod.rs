//! Client certificates.

mod pattern;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

pub use pattern::{NamePattern, PatternError, SubjectNamePattern};
pub use settings::{MtlsName, MtlsSettings};

use super::authenticate::{Asked, Authenticate, Changes, Grant, Judging, Verdict};
use crate::context::{ClientCertificate, Identity, SubjectName};
use crate::hex::hex;

/// RFC 9440 §2.2.
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// RFC 9440 §2.3.
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// Knows who asks by the certificate that the connection was made with.
///
/// That it is genuine was seen to when hands were shaken: who vouches for clients is for
/// the listener to say. What is left is who of them may come in, and what the origin is
/// told. It is worked out once for each connection. A certificate that expires while its
/// connection is open lets nobody in any more.
///
/// Whoever serves connections of their own gives requests a
/// [`Downstream`](crate::context::Downstream) with the certificate in it.
///
/// ```
/// use tollgate::layers::{AuthLayer, Mtls, MtlsSettings};
///
/// let settings = MtlsSettings {
///     subjects: vec!["CN=*,OU=ops,O=Example".parse()?],
///     names: vec!["uri:spiffe://example.test/ns/*/sa/web".parse()?],
///     ..MtlsSettings::default()
/// };
/// let layer = AuthLayer::by(Mtls::new(&settings));
/// # let _ = layer;
/// # Ok::<_, tollgate::layers::PatternError>(())
/// ```
#[derive(Debug)]
pub struct Mtls {
    settings: MtlsSettings,
    /// In hexadecimal.
    fingerprints: Vec<Box<str>>,
    /// By what connections remember what it has made of them.
    id: u64,
}

/// What one certificate comes to.
#[derive(Debug)]
struct Judged {
    not_after: i64,
    /// `None` if it is not let in.
    grant: Option<Grant>,
}

impl Mtls {
    /// Lets in whom these settings do.
    #[must_use]
    pub fn new(settings: &MtlsSettings) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let fingerprints = settings.fingerprints.iter().map(|digest| hex(digest).into());
        Self {
            fingerprints: fingerprints.collect(),
            settings: settings.clone(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn judged(&self, certificate: &ClientCertificate) -> Judged {
        let grant = self.lets_in(certificate).then(|| self.grant(certificate));
        Judged { not_after: certificate.not_after, grant }
    }

    fn lets_in(&self, certificate: &ClientCertificate) -> bool {
        let MtlsSettings { subjects, names, issuers, .. } = &self.settings;
        let anybody = subjects.is_empty() && names.is_empty() && self.fingerprints.is_empty();
        let issued = issuers.iter().any(|issuer| issuer.matches(&certificate.authority));
        (issuers.is_empty() || issued)
            && (anybody
                || subjects.iter().any(|subject| subject.matches(&certificate.subject))
                || self.matched(certificate).is_some()
                || self.fingerprints.contains(&certificate.sha256))
    }

    /// The first alternative name that is looked for.
    fn matched<'c>(&self, certificate: &'c ClientCertificate) -> Option<&'c SubjectName> {
        let names = &self.settings.names;
        certificate.names.iter().find(|name| names.iter().any(|pattern| pattern.matches(name)))
    }

    fn name(&self, certificate: &ClientCertificate) -> Arc<str> {
        let subject = Some(&*certificate.subject).filter(|subject| !subject.is_empty());
        let name = match self.settings.name {
            MtlsName::CommonName => certificate.common_name.as_deref().map(str::to_owned),
            MtlsName::SubjectName => {
                let name = self.matched(certificate).or_else(|| certificate.names.first());
                name.map(SubjectName::value)
            }
            MtlsName::Subject => None,
            MtlsName::Fingerprint => Some(fingerprint(certificate)),
        };
        let name = name.or_else(|| subject.map(str::to_owned));
        name.unwrap_or_else(|| fingerprint(certificate)).into()
    }

    fn grant(&self, certificate: &ClientCertificate) -> Grant {
        let name = self.name(certificate);
        let scopes = self.settings.scopes.iter().map(String::as_str);
        let mut identity = Identity::new(name.clone(), "mtls").with_scopes(scopes);
        identity.claims = claims(certificate);
        let changes = Changes { set: self.fields(certificate, &name), ..Changes::default() };
        Grant::to(identity).changing(changes)
    }

    /// What the origin is told.
    fn fields(
        &self,
        certificate: &ClientCertificate,
        name: &str,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = Vec::new();
        let mut tell = |field: &HeaderName, value: &str| {
            // Names have no control characters; a value that cannot be sent is not.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                fields.push((field.clone(), value));
            }
        };
        if let Some(field) = &self.settings.identity_header {
            tell(field, name);
        }
        let mut chain = certificate.chain.iter().map(|der| byte_sequence(der));
        let leaf = chain.next();
        if let Some(leaf) = leaf.filter(|_| self.settings.forward_certificate) {
            tell(&CLIENT_CERT, &leaf);
        }
        let others: Vec<String> = chain.collect();
        if self.settings.forward_chain && !others.is_empty() {
            tell(&CLIENT_CERT_CHAIN, &others.join(", "));
        }
        fields
    }
}

impl Authenticate for Mtls {
    fn scheme(&self) -> &'static str {
        "mtls"
    }

    fn judge(&self, request: &Asked<'_>) -> Judging {
        let tls = request.downstream.and_then(|downstream| downstream.tls.as_ref());
        let (Some(downstream), Some(certificate)) =
            (request.downstream, tls.and_then(|tls| tls.client.as_ref()))
        else {
            return Verdict::Absent.into();
        };
        let judged = downstream.derived.once(self.id, || self.judged(certificate));
        let verdict = match &judged.grant {
            _ if jiff::Timestamp::now().as_second() > judged.not_after => {
                Verdict::Forbidden("mtls_expired")
            }
            None => Verdict::Forbidden("mtls_unknown"),
            Some(grant) => Verdict::Granted(grant.clone()),
        };
        verdict.into()
    }

    /// Also those that are not set: an origin that reads them is not to believe a client
    /// because of how this is configured (RFC 9440 §4).
    fn identity_fields(&self) -> Vec<HeaderName> {
        let name = self.settings.identity_header.clone();
        [CLIENT_CERT, CLIENT_CERT_CHAIN].into_iter().chain(name).collect()
    }
}

fn claims(certificate: &ClientCertificate) -> Map<String, Value> {
    let text = |text: &str| Value::from(text);
    let names = certificate.names.iter().map(|name| Value::from(name.to_string()));
    let claims = [
        ("subject", text(&certificate.subject)),
        ("issuer", text(&certificate.issuer)),
        ("serial", text(&certificate.serial)),
        ("fingerprint", Value::from(fingerprint(certificate))),
        ("san", names.collect()),
    ];
    let cn = certificate.common_name.as_deref().map(|name| ("cn", text(name)));
    claims.into_iter().chain(cn).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn fingerprint(certificate: &ClientCertificate) -> String {
    format!("sha256:{}", certificate.sha256)
}

/// RFC 9651 §3.3.5.
fn byte_sequence(bytes: &[u8]) -> String {
    format!(":{}:", BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests;
