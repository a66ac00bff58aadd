//! The keys of `[[auth]]`, and of what routes ask of them.

use super::keys::{Hidden, Keys};
use super::spell::{NONE, duration, duration_or_off, memory_size, or_none};
use crate::layers::{
    AddressSettings, ApiKeySettings, AuthSettings, AuthenticatorSettings, SchemeSettings,
    SignatureKey, SignatureSettings,
};
use crate::pace::Quota;
use crate::signature::Scheme;

pub(super) fn authenticator(settings: &AuthenticatorSettings) -> Keys {
    let AuthenticatorSettings { name: _, scheme } = settings;
    let mut keys = Keys::default();
    match scheme {
        SchemeSettings::Address(settings) => keys.table("address", address(settings)),
        SchemeSettings::ApiKey(settings) => keys.table("api_key", api_key(settings)),
        SchemeSettings::Signature(settings) => keys.table("signature", signature(settings)),
        // Of the host application's own making: whether it is another, the whole says.
        SchemeSettings::Custom(_) => {}
    }
    keys
}

pub(super) fn of_route(settings: &AuthSettings) -> Keys {
    let AuthSettings { all, any, scopes, failures } = settings;
    let mut keys = Keys::default();
    keys.list("all", all);
    keys.list("any", any);
    keys.list("scopes", scopes);
    match failures {
        None => keys.one("failures", "unlimited"),
        Some(Quota { requests, per, burst }) => {
            let per = duration(*per);
            keys.one("failures", format!("{requests} in {per}, {burst} at once"));
        }
    }
    keys
}

pub(super) fn api_key(settings: &ApiKeySettings) -> Keys {
    let ApiKeySettings { header, keys: secrets, identity_header } = settings;
    let mut keys = Keys::default();
    keys.one("header", header);
    keys.one("identity_header", or_none(identity_header.as_ref(), ToString::to_string));
    keys.pairs("keys", secrets.iter().map(|key| (&*key.name, Hidden::Digest(key.digest))));
    keys
}

fn signature(settings: &SignatureSettings) -> Keys {
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

fn address(settings: &AddressSettings) -> Keys {
    let AddressSettings { allow, deny } = settings;
    let mut keys = Keys::default();
    keys.list("allow", allow);
    keys.list("deny", deny);
    keys
}
