//! The keys of `[[auth]]`, and of what routes ask of them.

use super::keys::{Hidden, Keys};
use super::spell::{duration, or_none};
use crate::layers::{
    AddressSettings, ApiKeySettings, AuthSettings, AuthenticatorSettings, SchemeSettings,
};
use crate::pace::Quota;

pub(super) fn authenticator(settings: &AuthenticatorSettings) -> Keys {
    let AuthenticatorSettings { name: _, scheme } = settings;
    let mut keys = Keys::default();
    match scheme {
        SchemeSettings::Address(settings) => keys.table("address", address(settings)),
        SchemeSettings::ApiKey(settings) => keys.table("api_key", api_key(settings)),
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

fn address(settings: &AddressSettings) -> Keys {
    let AddressSettings { allow, deny } = settings;
    let mut keys = Keys::default();
    keys.list("allow", allow);
    keys.list("deny", deny);
    keys
}
