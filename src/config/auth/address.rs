//! `[auth.address]`

use crate::config::reader::Table;
use crate::config::units::network;
use crate::layers::AddressSettings;

pub(super) fn read(mut table: Table<'_>) -> AddressSettings {
    let allow = table.list("allow", network).unwrap_or_default();
    let deny = table.list("deny", network).unwrap_or_default();
    if !table.has("allow") && !table.has("deny") {
        let hint = "allow = [\"10.0.0.0/8\"]".to_owned();
        table.complain("it says neither who is let in nor who is kept out", Some(hint));
    }
    table.finish(&[
        ("source_range", "allow"),
        ("allowlist", "allow"),
        ("whitelist", "allow"),
        ("denylist", "deny"),
        ("blacklist", "deny"),
        ("block", "deny"),
    ]);
    AddressSettings { allow, deny }
}
