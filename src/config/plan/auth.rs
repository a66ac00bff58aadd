//! The keys of `[[auth]]`, and of what routes ask of them.

use super::keys::{Hidden, Keys};
use super::spell::{NONE, duration, duration_or_off, memory_size, or_none, path, size};
use crate::layers::{
    AddressSettings, ApiKeySettings, AuthSettings, AuthenticatorSettings, DecisionCacheSettings,
    ForwardAuthSettings, JwksSettings, JwtKeys, JwtRules, JwtSettings, SchemeSettings,
    SignatureKey, SignatureSettings, TokenPlace, ToldFields,
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
        SchemeSettings::Jwt(settings) => keys.table("jwt", jwt(settings)),
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
    let one_of = |(name, values): &(String, Vec<serde_json::Value>)| {
        format!("{name} = {}", serde_json::Value::from(values.clone()))
    };
    keys.list("required_claims", required.iter().map(one_of));
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
