//! `[route.concurrency]` and `[route.bandwidth]`

use super::RouteSettings;
use super::rate_limits::limit_key;
use super::reader::Table;
use super::units::{bandwidth, positive, size};
use crate::layers::{BandwidthSettings, ConcurrencySettings};

/// What bounds the requests of a route that are under way, and how fast they are answered.
pub(super) fn read(table: &mut Table<'_>, route: &mut RouteSettings) {
    let identified = table.has("auth") || table.has("api_key");
    route.concurrency = table.table("concurrency").and_then(|table| concurrency(table, identified));
    route.bandwidth = table.table("bandwidth").and_then(paced);
}

fn concurrency(mut table: Table<'_>, identified: bool) -> Option<ConcurrencySettings> {
    let max = table.require("max", "how many requests may be under way", positive);
    let key = limit_key(&mut table, identified);
    table.finish(&[
        ("limit", "max"),
        ("max_connections", "max"),
        ("max_in_flight", "max"),
        ("amount", "max"),
        ("by", "key"),
        ("source", "key"),
    ]);
    Some(ConcurrencySettings { max: max?, key })
}

fn paced(mut table: Table<'_>) -> Option<BandwidthSettings> {
    let what = "bytes in a second, such as \"1MiB/s\"";
    let response = table.require("response", what, bandwidth);
    let mut burst = BandwidthSettings::BURST;
    table.set("burst", &mut burst, size);
    table.finish(&[
        ("rate", "response"),
        ("limit_rate", "response"),
        ("limit_rate_after", "burst"),
    ]);
    Some(BandwidthSettings { response: response?, burst })
}
