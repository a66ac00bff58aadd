//! `[auth.mtls]`

use crate::accept::ListenerSettings;
use crate::config::reader::{Fits, Misfit, Table, Value};
use crate::config::units::header_name;
use crate::layers::{
    AuthSettings, AuthenticatorSettings, MtlsName, MtlsSettings, NamePattern, SchemeSettings,
    SubjectNamePattern,
};

const NAMES: [(&str, MtlsName); 4] = [
    ("cn", MtlsName::CommonName),
    ("san", MtlsName::SubjectName),
    ("subject", MtlsName::Subject),
    ("fingerprint", MtlsName::Fingerprint),
];

pub(super) fn read(mut table: Table<'_>) -> MtlsSettings {
    let name = |value: &Value<'_>| value.parsed::<NamePattern>("the name of a subject (RFC 4514)");
    let alternative = |value: &Value<'_>| value.parsed::<SubjectNamePattern>("such a name");
    for key in ["subjects", "sans", "fingerprints", "issuers"] {
        if table.value(key).is_some_and(|list| list.is_empty_list()) {
            table.complain(format!("`{key}` names nobody"), Some("leave it out".to_owned()));
        }
    }
    let mut settings = MtlsSettings {
        subjects: table.list("subjects", name).unwrap_or_default(),
        names: table.list("sans", alternative).unwrap_or_default(),
        fingerprints: table.list("fingerprints", fingerprint).unwrap_or_default(),
        issuers: table.list("issuers", name).unwrap_or_default(),
        scopes: table.list("scopes", super::scope).unwrap_or_default(),
        identity_header: table.read("identity_header", header_name),
        ..MtlsSettings::default()
    };
    table.set("name", &mut settings.name, |v| v.word(&NAMES));
    table.set("forward_certificate", &mut settings.forward_certificate, Value::boolean);
    table.set("forward_chain", &mut settings.forward_chain, Value::boolean);
    table.finish(&[
        ("subject", "subjects"),
        ("allow", "subjects"),
        ("san", "sans"),
        ("uris", "sans"),
        ("dns_names", "sans"),
        ("fingerprint", "fingerprints"),
        ("issuer", "issuers"),
        ("ca", "issuers"),
        ("pass_tls_client_cert", "forward_certificate"),
        ("pem", "forward_certificate"),
        ("chain", "forward_chain"),
    ]);
    settings
}

/// `sha256:` and 64 digits, with or without colons between them.
fn fingerprint(value: &Value<'_>) -> Fits<[u8; 32]> {
    let text = value.string("a fingerprint")?;
    let digits = text.strip_prefix("sha256:").map(|digits| digits.replace(':', ""));
    let bytes = digits.filter(|digits| digits.len() == 64 && digits.is_ascii()).map(|digits| {
        let byte = |at: usize| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok();
        (0..32).map(byte).collect::<Option<Vec<u8>>>()
    });
    bytes.flatten().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        Misfit::new("expected `sha256:` and the 64 hexadecimal digits of a certificate")
            .hint("openssl x509 -noout -fingerprint -sha256 -in client.crt")
    })
}

/// Complains of a route that asks for a certificate where no client is asked for one.
pub(in crate::config) fn needs_client_auth(
    route: &Table<'_>,
    auth: &AuthSettings,
    known: &[AuthenticatorSettings],
    listeners: &[ListenerSettings],
    named: &[String],
) {
    let is_mtls = |name: &&String| {
        let named = known.iter().find(|one| one.name == **name);
        matches!(named.map(|one| &one.scheme), Some(SchemeSettings::Mtls(_)))
    };
    let Some(scheme) = auth.names().find(is_mtls) else { return };
    let mut its = listeners.iter().filter(|one| named.is_empty() || named.contains(&one.name));
    if !its.any(|one| one.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some())) {
        let message = format!(
            "`{scheme}` goes by client certificates, and no listener of this route asks for any"
        );
        let hint = "[listener.tls.client_auth]\nca = \"clients.pem\"".to_owned();
        route.complain(message, Some(hint));
    }
}
