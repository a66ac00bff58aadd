//! `[auth.api_key]` and `[route.api_key]`.

use std::path::Path;

use http::HeaderValue;

use crate::config::listeners::unique;
use crate::config::reader::{Misfit, Table};
use crate::config::says_where;
use crate::config::units::{api_key, header_name};
use crate::layers::{ApiKey, ApiKeySettings};

pub(in crate::config) fn api_keys(mut table: Table<'_>, base: &Path) -> Option<ApiKeySettings> {
    let header = table.read("header", header_name);
    let identity_header = table.read("identity_header", header_name);
    let mut keys: Vec<ApiKey> = Vec::new();
    if table.has("keys") {
        for key in table.tables("keys") {
            let names: Vec<String> = keys.iter().map(|key| key.name.to_string()).collect();
            keys.extend(one_key(key, base, &names));
        }
    } else {
        table.complain("the key `keys` is missing: who is let in", None);
        let _known = table.value("keys");
    }
    table.finish(&[("key", "keys"), ("header_name", "header"), ("name", "header")]);
    let mut settings = ApiKeySettings::new(keys);
    settings.identity_header = identity_header;
    if let Some(header) = header {
        settings.header = header;
    }
    Some(settings)
}

fn one_key(mut table: Table<'_>, base: &Path, names: &[String]) -> Option<ApiKey> {
    for (field, _, value) in table.entries() {
        // Whatever it is called, it may be the key itself.
        if field != "name" && !value.string("").is_ok_and(says_where) {
            value.conceal();
        }
    }
    let name = table.require("name", "whose key it is", |v| {
        let name = unique(v, names)?;
        match HeaderValue::from_str(&name) {
            Ok(_) => Ok(name),
            Err(_) => Err(Misfit::new("a name has no control characters")),
        }
    });
    let digest =
        table.require("key", "the key, by its digest or where to read it", |v| api_key(v, base));
    table.finish(&[("secret", "key"), ("value", "key"), ("hash", "key")]);
    Some(ApiKey { name: name?.into(), digest: digest? })
}
