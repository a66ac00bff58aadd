//! The keys of `[auth.signature]`.

use crate::config::plan::keys::{Hidden, Keys};
use crate::config::plan::spell::{NONE, duration, duration_or_off, memory_size, or_none};
use crate::layers::{SignatureKey, SignatureSettings};
use crate::signature::Scheme;

pub(super) fn keys(settings: &SignatureSettings) -> Keys {
    let SignatureSettings {
        keys: known,
        required,
        max_age,
        skew,
        nonce,
        replay,
        max_remembered,
        tag,
        max_body,
        scheme,
        identity_header,
    } = settings;
    let mut keys = Keys::default();
    let one = |of: &SignatureKey| {
        let SignatureKey { id, name, key, scopes } = of;
        let said = format!("{name}\n{}\n{scopes:?}\n", key.algorithm());
        (id.clone(), Hidden::Bytes([said.as_bytes(), key.fingerprint()].concat()))
    };
    keys.pairs("keys", known.iter().map(one));
    keys.list("required", required);
    keys.one("max_age", duration(*max_age));
    keys.one("skew", duration_or_off(*skew));
    keys.one("nonce", nonce);
    keys.one("replay", replay);
    keys.one("max_remembered", max_remembered);
    keys.one("tag", tag.as_deref().unwrap_or(NONE));
    keys.one("max_body", memory_size(*max_body));
    keys.one("scheme", scheme.map_or("the connection's", Scheme::as_str));
    keys.one("identity_header", or_none(identity_header.as_ref(), ToString::to_string));
    keys
}
