//! `[listener.tls.client_auth]`

use std::path::Path;

use super::reader::{Misfit, Table, Value};
use super::units::file;
use crate::tls::{ClientAuthMode, ClientAuthSettings, UnknownRevocation};

const MODES: [(&str, ClientAuthMode); 2] =
    [("require", ClientAuthMode::Require), ("request", ClientAuthMode::Request)];

const UNKNOWN: [(&str, UnknownRevocation); 2] =
    [("refuse", UnknownRevocation::Refuse), ("accept", UnknownRevocation::Accept)];

/// What other proxies call the modes.
const MODES_ELSEWHERE: [(&str, &str); 7] = [
    ("on", "require"),
    ("required", "require"),
    ("require_and_verify", "require"),
    ("RequireAndVerifyClientCert", "require"),
    ("optional", "request"),
    ("verify_if_given", "request"),
    ("VerifyClientCertIfGiven", "request"),
];

pub(super) fn read(mut table: Table<'_>, base: &Path) -> ClientAuthSettings {
    let ca = table.require("ca", "who vouches for clients, in PEM", |v| file(v, base));
    let mut settings = ClientAuthSettings::new(ca.unwrap_or_default());
    table.set("mode", &mut settings.mode, |value: &Value<'_>| {
        let given = value.string("a mode").unwrap_or_default();
        let renamed = MODES_ELSEWHERE.iter().find(|(theirs, _)| *theirs == given);
        match (value.word(&MODES), renamed) {
            (Err(misfit), Some((_, ours))) => Err(misfit.hint(format!("here it is \"{ours}\""))),
            (read, _) => read,
        }
    });
    settings.revoked = table.list("crl", |v| file(v, base)).unwrap_or_default();
    if table.value("crl").is_some_and(|crl| crl.is_empty_list()) {
        table.complain("`crl` names no file", None);
    }
    table.set("unknown_revocation", &mut settings.unknown_revocation, |value| {
        let read = value.word(&UNKNOWN)?;
        if settings.revoked.is_empty() {
            return Err(Misfit::new("without `crl` nothing is known of any revocation"));
        }
        Ok(read)
    });
    table.finish(&[
        ("ca_file", "ca"),
        ("ca_files", "ca"),
        ("cafile", "ca"),
        ("caFiles", "ca"),
        ("trusted_ca", "ca"),
        ("client_certificate", "ca"),
        ("crls", "crl"),
        ("crl_file", "crl"),
        ("verify", "mode"),
        ("clientAuthType", "mode"),
    ]);
    settings
}
