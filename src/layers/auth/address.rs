//! Networks that are let in, and networks that are not.

use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::authenticate::{Asked, Authenticate, Grant, Judging, Verdict};
use super::settings::AddressSettings;

/// Lets in by the client's address, that of the exchange: behind trusted proxies it is the
/// one that they vouch for.
///
/// The most specific network that has an address has the say. It takes as many steps as a
/// prefix has bits, however many networks there are.
///
/// ```
/// use tollgate::layers::{AddressSettings, Addresses, AuthLayer};
///
/// let office = AddressSettings {
///     allow: vec!["10.0.0.0/8".parse()?],
///     deny: vec!["10.9.0.0/16".parse()?],
/// };
/// let layer = AuthLayer::by(Addresses::new(&office));
/// # let _ = layer;
/// # Ok::<_, ipnet::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct Addresses {
    /// Whether each network is let in.
    networks: JointPrefixMap<IpNet, bool>,
    /// Whether those are that are in none.
    others: bool,
}

impl Addresses {
    /// Lets in whom these settings do.
    #[must_use]
    pub fn new(settings: &AddressSettings) -> Self {
        let mut networks = JointPrefixMap::new();
        let allowed = settings.allow.iter().map(|network| (*network, true));
        let denied = settings.deny.iter().map(|network| (*network, false));
        for (network, allowed) in allowed.chain(denied) {
            networks.insert(network.trunc(), allowed);
        }
        Self { networks, others: settings.allow.is_empty() }
    }

    fn admits(&self, client: IpAddr) -> bool {
        let client = IpNet::from(client.to_canonical());
        self.networks.get_lpm(&client).map_or(self.others, |(_, allowed)| *allowed)
    }
}

impl Authenticate for Addresses {
    fn scheme(&self) -> &'static str {
        "address"
    }

    fn is_by_credentials(&self) -> bool {
        false
    }

    fn judge(&self, request: &Asked<'_>) -> Judging {
        let verdict = match request.client() {
            Some(client) if self.admits(client) => Verdict::Granted(Grant::default()),
            Some(_) => Verdict::Outside("address_denied"),
            None => Verdict::Outside("address_unknown"),
        };
        verdict.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(allow: &[&str], deny: &[&str]) -> Addresses {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Addresses::new(&AddressSettings { allow: networks(allow), deny: networks(deny) })
    }

    #[test]
    fn the_most_specific_network_has_the_say() {
        let office = addresses(&["10.0.0.0/8", "10.9.1.0/24"], &["10.9.0.0/16"]);
        for (client, admitted) in [
            ("10.1.2.3", true),
            ("10.9.2.3", false),
            ("10.9.1.3", true),
            ("::ffff:10.1.2.3", true),
            ("::ffff:10.9.2.3", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(office.admits(client.parse().unwrap()), admitted, "{client}");
        }
    }

    #[test]
    fn where_none_is_let_in_by_name_all_are_that_are_not_kept_out() {
        let without = addresses(&[], &["2001:db8::/32", "192.0.2.7/32"]);
        for (client, admitted) in
            [("192.0.2.7", false), ("192.0.2.8", true), ("2001:db8::1", false), ("2001::1", true)]
        {
            assert_eq!(without.admits(client.parse().unwrap()), admitted, "{client}");
        }
    }

    #[test]
    fn a_network_that_is_both_is_kept_out() {
        let both = addresses(&["10.0.0.0/8"], &["10.0.0.0/8"]);
        assert!(!both.admits("10.0.0.1".parse().unwrap()));
    }
}
