//! Which addresses a name may point at.
//!
//! Whoever answers for an origin's name could otherwise have Tollgate connect
//! to itself, to its link or to the metadata service of its cloud (DNS
//! rebinding). Private networks are where origins are: those pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses that clouds give their metadata services outside of link-local.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// Why an answer may not name this address; `None` if it may.
pub(super) fn refused(address: IpAddr, allow: &[IpNet]) -> Option<&'static str> {
    if allow.iter().any(|network| network.contains(&address)) {
        return None;
    }
    match address {
        _ if METADATA.contains(&address) => Some("a metadata service"),
        IpAddr::V4(v4) => refused_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => refused(IpAddr::V4(v4), allow),
            None => refused_v6(v6),
        },
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("unspecified"),
        [127, ..] => Some("loopback"),
        [169, 254, ..] => Some("link-local"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

fn refused_v6(address: Ipv6Addr) -> Option<&'static str> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        _ => None,
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped or compatible
/// (RFC 4291 §2.5.5), translated (RFC 6052) or tunnelled (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(from(high, low))
        }
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(address: &str) -> bool {
        refused(address.parse().unwrap(), &[]).is_some()
    }

    #[test]
    fn this_machine_its_link_and_its_cloud_are_refused() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            assert!(is_refused(address), "{address}");
        }
    }

    #[test]
    fn an_ipv4_address_is_seen_inside_an_ipv6_one() {
        for address in [
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:7f00:1::1",
        ] {
            assert!(is_refused(address), "{address}");
        }
        for address in ["::ffff:10.0.0.1", "64:ff9b::192.0.2.1", "2002:c000:201::1"] {
            assert!(!is_refused(address), "{address}");
        }
    }

    #[test]
    fn where_origins_are_is_not_refused() {
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "192.0.2.1",
            "fd12::1",
            "2001:db8::1",
        ] {
            assert!(!is_refused(address), "{address}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_refused() {
        let allow: Vec<IpNet> = vec!["127.0.0.0/8".parse().unwrap()];
        assert_eq!(refused("127.0.0.1".parse().unwrap(), &allow), None);
        assert_eq!(refused("::ffff:127.0.0.1".parse().unwrap(), &allow), None);
        assert_eq!(refused("::1".parse().unwrap(), &allow), Some("loopback"));
    }
}
