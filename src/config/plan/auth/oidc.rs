//! The keys of `[auth.oidc]`.

use super::jwt::{claims_in_headers, required_claims};
use crate::config::plan::keys::Keys;
use crate::config::plan::spell::{duration, or_none, path};
use crate::layers::{OidcSettings, SharedSecret};

pub(super) fn keys(settings: &OidcSettings) -> Keys {
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
