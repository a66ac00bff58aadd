//! `[dns]`

use std::net::{IpAddr, SocketAddr};

use super::reader::{Fits, Misfit, Table, Value};
use super::units::{duration, network};
use crate::upstream::{AddressFamily, DnsSettings};

/// The port of a name server that names none.
const PORT: u16 = 53;

pub(super) fn read(root: &mut Table<'_>) -> DnsSettings {
    let mut dns = DnsSettings::default();
    let Some(mut table) = root.table("dns") else { return dns };
    dns.servers = table.list("servers", server).unwrap_or_default();
    table.set("timeout", &mut dns.timeout, duration);
    table.set("attempts", &mut dns.attempts, |v| {
        let attempts = v.integer("a number", 1, 10)?;
        u32::try_from(attempts).map_err(|_| Misfit::new("the number is too large"))
    });
    table.set("min_ttl", &mut dns.min_ttl, duration);
    let least = dns.min_ttl;
    table.set("max_ttl", &mut dns.max_ttl, |v| match duration(v)? {
        most if most >= least => Ok(most),
        _ => Err(Misfit::new(format!("expected no less than `min_ttl`, {least:?}"))),
    });
    if dns.max_ttl < dns.min_ttl && !table.has("max_ttl") {
        let hint = "set `max_ttl`, too".to_owned();
        table.complain("`min_ttl` is more than `max_ttl` is by default, 5m", Some(hint));
    }
    table.set("negative_ttl", &mut dns.negative_ttl, duration);
    let families = [
        ("ipv6_first", AddressFamily::Ipv6First),
        ("ipv4_first", AddressFamily::Ipv4First),
        ("ipv6", AddressFamily::Ipv6),
        ("ipv4", AddressFamily::Ipv4),
    ];
    table.set("family", &mut dns.family, |v| v.word(&families));
    dns.allow = table.list("allow", network).unwrap_or_default();
    table.finish(&[
        ("resolver", "servers"),
        ("resolvers", "servers"),
        ("nameservers", "servers"),
        ("valid", "max_ttl"),
        ("retries", "attempts"),
        ("allow_private", "allow"),
    ]);
    dns
}

fn server(value: &Value<'_>) -> Fits<SocketAddr> {
    const WHAT: &str = "the address of a name server, such as \"10.0.0.2\" or \"127.0.0.1:5353\"";
    let text = value.string(WHAT)?;
    let address = match text.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, PORT)),
        Err(_) => text.parse().ok().filter(|address: &SocketAddr| address.port() > 0),
    };
    address.ok_or_else(|| Misfit::new(format!("`{text}` is not {WHAT}")))
}
