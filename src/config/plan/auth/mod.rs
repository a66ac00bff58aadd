//! The keys of `[[auth]]`, and of what routes ask of them.

mod forward;
mod jwt;
mod mtls;
mod oidc;
mod signature;

use super::keys::{Hidden, Keys};
use super::spell::{duration, or_none, path};
use crate::layers::{
    AddressSettings, ApiKey, ApiKeySettings, AuthSettings, AuthenticatorSettings, BasicSettings,
    BasicUser, RedisKeySettings, SchemeSettings,
};
use crate::pace::Quota;

pub(super) fn authenticator(settings: &AuthenticatorSettings) -> Keys {
    let AuthenticatorSettings { name: _, scheme } = settings;
    let mut keys = Keys::default();
    match scheme {
        SchemeSettings::Address(settings) => keys.table("address", address(settings)),
        SchemeSettings::ApiKey(settings) => keys.table("api_key", api_key(settings)),
        SchemeSettings::Forward(settings) => keys.table("forward", forward::keys(settings)),
        SchemeSettings::Signature(settings) => keys.table("signature", signature::keys(settings)),
        SchemeSettings::Jwt(settings) => keys.table("jwt", jwt::keys(settings)),
        SchemeSettings::Oidc(settings) => keys.table("oidc", oidc::keys(settings)),
        SchemeSettings::Basic(settings) => keys.table("basic", basic(settings)),
        SchemeSettings::Mtls(settings) => keys.table("mtls", mtls::keys(settings)),
        // Of the host application's own making: whether it is another, the whole says.
        SchemeSettings::Custom(_) => {}
    }
    keys
}

pub(super) fn of_route(settings: &AuthSettings) -> Keys {
    let AuthSettings { all, any, scopes, failures, preflights } = settings;
    let mut keys = Keys::default();
    keys.list("all", all);
    keys.list("any", any);
    keys.list("scopes", scopes);
    keys.one("preflights", preflights);
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
    let ApiKeySettings {
        header,
        bearer,
        query,
        keys: secrets,
        file,
        redis,
        identity_header,
        scopes_header,
    } = settings;
    let mut keys = Keys::default();
    keys.one("header", header);
    keys.one("bearer", bearer);
    keys.one("query", or_none(query.as_ref(), ToString::to_string));
    keys.one("identity_header", or_none(identity_header.as_ref(), ToString::to_string));
    keys.one("scopes_header", or_none(scopes_header.as_ref(), ToString::to_string));
    keys.one("file", or_none(file.as_deref(), path));
    if let Some(RedisKeySettings { prefix, cache, stale }) = redis {
        keys.one("redis", prefix);
        keys.one("cache", duration(*cache));
        keys.one("stale", duration(*stale));
    }
    keys.pairs("keys", secrets.iter().map(|key| (&*key.name, one_key(key))));
    keys
}

/// All of a key but its name, which is no secret by itself but nobody's affair.
fn one_key(key: &ApiKey) -> Hidden {
    let ApiKey { name: _, digest, id, not_before, expires, scopes, quota } = key;
    Hidden::of(format!("{} {id:?} {not_before:?} {expires:?} {scopes:?} {quota:?}", digest.hex()))
}

fn basic(settings: &BasicSettings) -> Keys {
    let BasicSettings {
        realm,
        file,
        users,
        cache,
        identity_header,
        scopes_header,
        forward_credentials,
    } = settings;
    let mut keys = Keys::default();
    keys.one("realm", realm);
    keys.one("file", or_none(file.as_deref(), path));
    keys.pairs("users", users.iter().map(|user| (&*user.name, one_user(user))));
    keys.one("cache", duration(*cache));
    keys.one("identity_header", or_none(identity_header.as_ref(), ToString::to_string));
    keys.one("scopes_header", or_none(scopes_header.as_ref(), ToString::to_string));
    keys.one("forward_credentials", forward_credentials);
    keys
}

fn one_user(user: &BasicUser) -> Hidden {
    let BasicUser { name: _, password, scopes } = user;
    Hidden::of(format!("{password} {scopes:?}"))
}

fn address(settings: &AddressSettings) -> Keys {
    let AddressSettings { allow, deny } = settings;
    let mut keys = Keys::default();
    keys.list("allow", allow);
    keys.list("deny", deny);
    keys
}
