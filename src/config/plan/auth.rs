//! The keys of `[[auth]]`, and of what routes ask of them.

use super::keys::{Hidden, Keys};
use super::spell::{NONE, duration, duration_or_off, memory_size, or_none, path, size};
use crate::layers::{
    AddressSettings, ApiKeySettings, AuthSettings, AuthenticatorSettings, DecisionCacheSettings,
    ForwardAuthSettings, SchemeSettings, SignatureKey, SignatureSettings, ToldFields,
};
use crate::pace::Quota;
use crate::signature::Scheme;

pub(super) fn authenticator(settings: &AuthenticatorSettings) -> Keys {
    let AuthenticatorSettings { name: _, scheme } = settings;
    let mut keys = Keys::default();
    match scheme {
        SchemeSettings::Address(settings) => keys.table("address", address(settings)),
        SchemeSettings::ApiKey(settings) => keys.table("api_key", api_key(settings)),
        SchemeSettings::Forward(settings) => keys.table("forward", forward(settings)),
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

fn forward(settings: &ForwardAuthSettings) -> Keys {
    let ForwardAuthSettings {
        url,
        method,
        request_headers,
        response_headers,
        name_header,
        scopes_header,
        set_cookies,
        pass_response,
        send_body,
        open_on_failure,
        timeout,
        max_response,
        max_in_flight,
        ca,
        cache,
    } = settings;
    let mut keys = Keys::default();
    keys.one("url", url);
    keys.one("method", method);
    match request_headers {
        ToldFields::These(names) => keys.list("request_headers", names),
        ToldFields::All => keys.list("request_headers", ["*"]),
    }
    keys.list("response_headers", response_headers);
    keys.one("name_header", or_none(name_header.as_ref(), ToString::to_string));
    keys.one("scopes_header", or_none(scopes_header.as_ref(), ToString::to_string));
    keys.one("set_cookies", set_cookies);
    keys.one("pass_response", pass_response);
    keys.one("send_body", or_none(*send_body, memory_size));
    keys.one("on_failure", if *open_on_failure { "open" } else { "closed" });
    keys.one("timeout", duration(*timeout));
    keys.one("max_response", size(*max_response));
    keys.one("max_in_flight", max_in_flight);
    keys.one("ca", ca.as_deref().map_or_else(|| "the system's".to_owned(), path));
    if let Some(DecisionCacheSettings { key, ttl, negative_ttl, memory }) = cache {
        let mut of = Keys::default();
        of.list("key", key);
        of.one("ttl", duration(*ttl));
        of.one("negative_ttl", duration_or_off(*negative_ttl));
        of.one("memory", size(*memory));
        keys.table("cache", of);
    }
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
