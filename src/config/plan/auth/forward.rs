//! The keys of `[auth.forward]`.

use crate::config::plan::keys::Keys;
use crate::config::plan::spell::{duration, duration_or_off, memory_size, or_none, path, size};
use crate::layers::{DecisionCacheSettings, ForwardAuthSettings, ToldFields};

pub(super) fn keys(settings: &ForwardAuthSettings) -> Keys {
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
