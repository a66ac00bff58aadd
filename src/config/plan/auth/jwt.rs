//! The keys of `[auth.jwt]`.

use crate::config::plan::keys::Keys;
use crate::config::plan::spell::{duration, memory_size, or_none, path};
use crate::layers::{JwksSettings, JwtKeys, JwtRules, JwtSettings, TokenPlace};

pub(super) fn keys(settings: &JwtSettings) -> Keys {
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

pub(super) fn claims_in_headers(keys: &mut Keys, pairs: &[(String, http::HeaderName)]) {
    let pair = |(claim, field): &(String, http::HeaderName)| format!("{claim} = {field}");
    keys.list("claims_to_headers", pairs.iter().map(pair));
}

pub(super) fn required_claims(keys: &mut Keys, required: &[(String, Vec<serde_json::Value>)]) {
    let one_of = |(name, values): &(String, Vec<serde_json::Value>)| {
        format!("{name} = {}", serde_json::Value::from(values.clone()))
    };
    keys.list("required_claims", required.iter().map(one_of));
}
