//! The keys of `[[auth]]`, and of what routes ask of them.

use super::keys::{Hidden, Keys};
use super::spell::{duration, memory_size, or_none, path};
use crate::layers::{
    AddressSettings, ApiKey, ApiKeySettings, AuthSettings, AuthenticatorSettings, BasicSettings,
    BasicUser, JwksSettings, JwtKeys, JwtRules, JwtSettings, OidcSettings, RedisKeySettings,
    SchemeSettings, SharedSecret, TokenPlace,
};
use crate::pace::Quota;

pub(super) fn authenticator(settings: &AuthenticatorSettings) -> Keys {
    let AuthenticatorSettings { name: _, scheme } = settings;
    let mut keys = Keys::default();
    match scheme {
        SchemeSettings::Address(settings) => keys.table("address", address(settings)),
        SchemeSettings::ApiKey(settings) => keys.table("api_key", api_key(settings)),
        SchemeSettings::Jwt(settings) => keys.table("jwt", jwt(settings)),
        SchemeSettings::Oidc(settings) => keys.table("oidc", oidc(settings)),
        SchemeSettings::Basic(settings) => keys.table("basic", basic(settings)),
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

fn jwt(settings: &JwtSettings) -> Keys {
    let JwtSettings {
        keys: source,
        algorithms,
        rules,
        place,
        strip,
        max_token,
        name_claim,
        scopes_claim,
        claims_to_headers,
    } = settings;
    let JwtRules { issuers, audiences, any_audience, require_exp, leeway, required } = rules;
    let mut keys = Keys::default();
    match source {
        JwtKeys::Jwks(jwks) => {
            let JwksSettings { url, ca, timeout, refresh, unknown_kid_pause } = jwks;
            keys.one("jwks", url);
            keys.one("ca", or_none(ca.as_deref(), path));
            keys.one("timeout", duration(*timeout));
            keys.one("refresh", duration(*refresh));
            keys.one("unknown_kid_pause", duration(*unknown_kid_pause));
        }
        JwtKeys::PublicKey(key) => keys.hidden("public_key", key.info()),
        JwtKeys::Secret(secret) => keys.hidden("secret", secret.reveal()),
    }
    keys.list("algorithms", algorithms);
    keys.list("issuer", issuers);
    keys.list("audience", audiences);
    keys.one("any_audience", any_audience);
    keys.one("require_exp", require_exp);
    keys.one("leeway", duration(*leeway));
    required_claims(&mut keys, required);
    match place {
        TokenPlace::Bearer => {}
        TokenPlace::Header(name) => keys.one("header", name),
        TokenPlace::Cookie(name) => keys.one("cookie", name),
    }
    keys.one("strip", strip);
    keys.one("max_token", memory_size(*max_token));
    keys.one("name_claim", name_claim);
    keys.one("scopes_claim", or_none(scopes_claim.as_ref(), ToString::to_string));
    claims_in_headers(&mut keys, claims_to_headers);
    keys
}

fn claims_in_headers(keys: &mut Keys, pairs: &[(String, http::HeaderName)]) {
    let pair = |(claim, field): &(String, http::HeaderName)| format!("{claim} = {field}");
    keys.list("claims_to_headers", pairs.iter().map(pair));
}

fn required_claims(keys: &mut Keys, required: &[(String, Vec<serde_json::Value>)]) {
    let one_of = |(name, values): &(String, Vec<serde_json::Value>)| {
        format!("{name} = {}", serde_json::Value::from(values.clone()))
    };
    keys.list("required_claims", required.iter().map(one_of));
}

fn oidc(settings: &OidcSettings) -> Keys {
    let OidcSettings {
        issuer,
        client_id,
        client_secret,
        scopes,
        callback,
        logout,
        provider_logout,
        public_url,
        cookie_secrets,
        session,
        algorithms,
        leeway,
        required,
        name_claim,
        scopes_claim,
        claims_to_headers,
        claims,
        ca,
        timeout,
    } = settings;
    let mut keys = Keys::default();
    keys.one("issuer", issuer);
    keys.one("client_id", client_id);
    keys.hidden("client_secret", client_secret.as_ref().map_or(&b""[..], SharedSecret::reveal));
    keys.list("scopes", scopes);
    keys.one("callback", callback);
    keys.one("logout", logout);
    keys.one("provider_logout", provider_logout);
    keys.one("public_url", or_none(public_url.as_ref(), ToString::to_string));
    let each: Vec<&[u8]> = cookie_secrets.iter().map(SharedSecret::reveal).collect();
    keys.hidden("cookie_secret", each.join(&0));
    keys.one("session", duration(*session));
    keys.list("algorithms", algorithms);
    keys.one("leeway", duration(*leeway));
    required_claims(&mut keys, required);
    keys.one("name_claim", name_claim);
    keys.one("scopes_claim", or_none(scopes_claim.as_ref(), ToString::to_string));
    claims_in_headers(&mut keys, claims_to_headers);
    keys.list("claims", claims);
    keys.one("ca", or_none(ca.as_deref(), path));
    keys.one("timeout", duration(*timeout));
    keys
}
