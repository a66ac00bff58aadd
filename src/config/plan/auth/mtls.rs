//! The keys of `[auth.mtls]`.

use crate::config::plan::keys::Keys;
use crate::config::plan::spell::or_none;
use crate::hex::hex;
use crate::layers::{MtlsName, MtlsSettings};

pub(super) fn keys(settings: &MtlsSettings) -> Keys {
    let MtlsSettings {
        subjects,
        names,
        fingerprints,
        issuers,
        name,
        scopes,
        identity_header,
        forward_certificate,
        forward_chain,
    } = settings;
    let mut keys = Keys::default();
    keys.list("subjects", subjects);
    keys.list("sans", names);
    keys.list("fingerprints", fingerprints.iter().map(|digest| hex(digest)));
    keys.list("issuers", issuers);
    keys.one(
        "name",
        match name {
            MtlsName::CommonName => "cn",
            MtlsName::SubjectName => "san",
            MtlsName::Subject => "subject",
            MtlsName::Fingerprint => "fingerprint",
        },
    );
    keys.list("scopes", scopes);
    keys.one("identity_header", or_none(identity_header.as_ref(), ToString::to_string));
    keys.one("forward_certificate", forward_certificate);
    keys.one("forward_chain", forward_chain);
    keys
}
