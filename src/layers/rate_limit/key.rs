//! What requests are counted by.
//!
//! A part of a key may be missing from a request: a field that it does not have, a claim, or
//! an identity where nobody had to show one. Then the client's network stands in for that
//! part, apart from all real values. So nobody gets another bucket by leaving something out
//! than the one that their network has for that, and those who all leave it out share
//! nothing beyond their network.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use http::HeaderMap;
use http::header::HeaderName;
use sha2::{Digest, Sha256};

use super::asker::Asker;
use crate::context::Prefixes;

/// What requests are counted by: all those alike in every part count together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LimitKey {
    /// The parts. Default: the client's address. None at all is all requests together.
    pub parts: Vec<LimitKeyPart>,
    /// How much of an address makes one client. Default 32 and 64 bits.
    pub prefixes: Prefixes,
}

/// A part of what requests are counted by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LimitKeyPart {
    /// The network of the client's address.
    Address,
    /// Who the request is from, as authentication has found out.
    Identity,
    /// The route: all its requests count together.
    Route,
    /// What this field says. Its lines are taken as one list; the case of letters, percent-
    /// encoding and whitespace make no difference, for they would be ways to have another
    /// bucket for what the origin takes for the same. Whoever chooses the value chooses the
    /// bucket, so a limit by address belongs beside it, unless a trusted proxy sets it.
    Header(HeaderName),
    /// This claim of the identity, such as those of a JSON Web Token (RFC 7519 §4).
    Claim(Box<str>),
}

/// Longer values are taken by their digest.
const LONG: usize = 64;

impl Default for LimitKey {
    fn default() -> Self {
        Self { parts: vec![LimitKeyPart::Address], prefixes: Prefixes::default() }
    }
}

impl From<LimitKeyPart> for LimitKey {
    fn from(part: LimitKeyPart) -> Self {
        Self { parts: vec![part], prefixes: Prefixes::default() }
    }
}

impl LimitKey {
    /// Whether it is known only once a request is authenticated.
    #[must_use]
    pub fn needs_identity(&self) -> bool {
        use LimitKeyPart::{Claim, Identity};
        self.parts.iter().any(|part| matches!(part, Identity | Claim(_)))
    }

    /// Whether all requests of an identity count together, and nobody else's with them: then
    /// a quota that the identity has of its own can stand in the place of the limit's.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        use LimitKeyPart::{Identity, Route};
        let of_it = |part: &LimitKeyPart| matches!(part, Identity | Route);
        self.parts.contains(&Identity) && self.parts.iter().all(of_it)
    }

    /// Whether all requests of a route count together.
    #[must_use]
    pub fn is_route(&self) -> bool {
        self.parts.iter().all(|part| *part == LimitKeyPart::Route)
    }

    /// The parts as one word, such as `address` or `route+header:x-tenant`.
    #[must_use]
    pub fn word(&self) -> String {
        let words = self.parts.iter().map(|part| match part {
            LimitKeyPart::Address => "address".to_owned(),
            LimitKeyPart::Identity => "identity".to_owned(),
            LimitKeyPart::Route => "route".to_owned(),
            LimitKeyPart::Header(name) => format!("header:{name}"),
            LimitKeyPart::Claim(name) => format!("claim:{name}"),
        });
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:+".contains(c);
        let word = words.collect::<Vec<_>>().join("+");
        word.chars().map(|c| if fits(c) { c } else { '_' }).collect()
    }

    /// A number for whom the request counts for: another for each address, and for all else
    /// one that nobody can choose who does not know `random`. `None`: there is nothing to
    /// count by, for the client's address is not known.
    pub(in crate::layers) fn number(&self, asker: &Asker<'_>, random: &RandomState) -> Option<u64> {
        match &*self.parts {
            [LimitKeyPart::Address] if self.prefixes.ipv6 <= 64 => {
                Some(number(self.prefixes.network(asker.client()?)))
            }
            _ if self.is_route() => Some(0),
            _ => {
                let mut hasher = random.build_hasher();
                hasher.write(&self.bytes(asker)?);
                Some(hasher.finish())
            }
        }
    }

    /// The same as bytes, which are alike wherever they are made.
    pub(in crate::layers) fn bytes(&self, asker: &Asker<'_>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in &self.parts {
            let (kind, value) = match part {
                LimitKeyPart::Route => continue,
                LimitKeyPart::Address => (b'a', None),
                LimitKeyPart::Header(name) => (b'h', folded(asker.headers(), name)),
                LimitKeyPart::Identity => (b'i', asker.identity_bytes()),
                LimitKeyPart::Claim(name) => (b'c', asker.claim_bytes(name)),
            };
            match value {
                Some(value) => put(&mut bytes, kind, &value),
                None => match self.prefixes.network(asker.client()?) {
                    IpAddr::V4(v4) => put(&mut bytes, b'4', &v4.octets()),
                    IpAddr::V6(v6) => put(&mut bytes, b'6', &v6.octets()),
                },
            }
        }
        Some(bytes)
    }
}

/// What a network is counted by: the prefix of an IPv6 address, or an IPv4 address as a
/// prefix that nobody has (`0000::/8` is reserved, RFC 4291 §2.4). One small number takes
/// half the room in the table that an address of either kind does.
pub(in crate::layers) fn number(network: IpAddr) -> u64 {
    const V4: u64 = 1 << 32;
    match network {
        IpAddr::V4(v4) => V4 | u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        }
    }
}

/// Adds a value of this kind. Its length stands at its end, so that no two lists of values
/// are the same bytes.
fn put(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.push(kind);
    if value.len() > LONG {
        bytes.extend_from_slice(&Sha256::digest(value));
        bytes.push(u8::MAX);
    } else {
        bytes.extend_from_slice(value);
        // It is LONG at the most.
        bytes.push(value.len() as u8);
    }
}

/// What a field says, however it is written; `None` if it says nothing.
fn folded(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut folded = Vec::new();
    for line in headers.get_all(name) {
        add(&mut folded, b',');
        fold(line.as_bytes(), &mut folded);
    }
    if folded.last() == Some(&b',') {
        folded.pop();
    }
    (!folded.is_empty()).then_some(folded)
}

fn fold(mut rest: &[u8], folded: &mut Vec<u8>) {
    while let [first, after @ ..] = rest {
        let encoded = match after {
            [high, low, after @ ..] if *first == b'%' => {
                hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, after))
            }
            _ => None,
        };
        let (byte, after) = encoded.unwrap_or((*first, after));
        add(folded, byte.to_ascii_lowercase());
        rest = after;
    }
}

/// Adds a byte that makes a difference: whitespace does not, nor does an empty member of a
/// list.
fn add(folded: &mut Vec<u8>, byte: u8) {
    let separates = byte == b',' && matches!(folded.last(), None | Some(b','));
    if !separates && !matches!(byte, b' ' | b'\t') {
        folded.push(byte);
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Downstream;
    use http::Request;
    use std::sync::Arc;

    fn key(part: LimitKeyPart) -> LimitKey {
        part.into()
    }

    fn tenant() -> LimitKey {
        key(LimitKeyPart::Header(HeaderName::from_static("x-tenant")))
    }

    /// What a request from this address with these values counts by.
    fn bytes(key: &LimitKey, client: &str, values: &[&[u8]]) -> Option<Vec<u8>> {
        let mut request = Request::new(());
        let peer = client.parse().ok().map(|client: IpAddr| (client, 1).into());
        request.extensions_mut().insert(Arc::new(Downstream { peer, ..Downstream::default() }));
        for value in values {
            request.headers_mut().append("x-tenant", (*value).try_into().unwrap());
        }
        key.bytes(&Asker::of(&request))
    }

    fn numbers(key: &LimitKey, clients: &[&str]) -> Vec<Option<u64>> {
        let random = RandomState::new();
        let number = |client: &&str| {
            let mut request = Request::new(());
            let peer = client.parse().ok().map(|client: IpAddr| (client, 1).into());
            request.extensions_mut().insert(Arc::new(Downstream { peer, ..Downstream::default() }));
            key.number(&Asker::of(&request), &random)
        };
        clients.iter().map(number).collect()
    }

    #[test]
    fn numbers_of_different_clients_differ() {
        let clients = [
            "0.0.0.0",
            "1.2.3.4",
            "255.255.255.255",
            "::1",
            "2001:db8::",
            "2001:db8:0:1::",
            "ffff::",
        ];
        for ipv6 in [64, 128] {
            let prefixes = Prefixes { ipv4: 32, ipv6 };
            let mut all = numbers(&LimitKey { prefixes, ..LimitKey::default() }, &clients);
            assert!(all.iter().all(Option::is_some));
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), clients.len());
        }
    }

    #[test]
    fn a_client_is_its_network_however_long_that_is() {
        let same = |ipv4, ipv6, one, other| {
            let prefixes = Prefixes { ipv4, ipv6 };
            let numbers = numbers(&LimitKey { prefixes, ..LimitKey::default() }, &[one, other]);
            assert!(numbers[0].is_some());
            numbers[0] == numbers[1]
        };
        assert!(same(32, 64, "2001:db8::1", "2001:db8::2"));
        assert!(!same(32, 64, "2001:db8::1", "2001:db8:0:1::1"));
        assert!(same(32, 48, "2001:db8::1", "2001:db8:0:1::1"));
        assert!(!same(32, 128, "2001:db8::1", "2001:db8::2"));
        assert!(same(32, 64, "192.0.2.1", "::ffff:192.0.2.1"));
        assert!(same(24, 64, "192.0.2.1", "192.0.2.200"));
        assert!(!same(24, 64, "192.0.2.1", "192.0.3.1"));
        assert!(same(0, 0, "192.0.2.1", "10.0.0.1"));
        assert!(same(0, 0, "2001:db8::1", "ffff::"));
    }

    #[test]
    fn values_that_are_written_in_other_ways_are_the_same() {
        let of = |values: &[&[u8]]| bytes(&tenant(), "192.0.2.1", values).unwrap();
        let acme = of(&[b"acme"]);
        for same in [&b"Acme"[..], b"ACME", b"a%63me", b"%41cme", b"  acme\t", b"ac me", b"acme,"] {
            assert_eq!(of(&[same]), acme, "{same:?}");
        }
        assert_eq!(of(&[b"", b"acme", b" ,"]), acme);
        assert_eq!(of(&[b"a", b"b"]), of(&[b"A , b"]));
        for other in [&b"acme2"[..], b"acm", b"acme%", b"acme%4", b"acme%zz", b"%61", b"\xe4"] {
            assert_ne!(of(&[other]), acme, "{other:?}");
        }
    }

    #[test]
    fn values_take_little_room_and_long_ones_differ() {
        let long = |last: u8| [&[b'x'; 60_000][..], &[last]].concat();
        let of = |value: &[u8]| bytes(&tenant(), "192.0.2.1", &[value]).unwrap();
        assert!(of(&long(b'a')).len() <= 64);
        assert_ne!(of(&long(b'a')), of(&long(b'b')));
        assert_eq!(of(&long(b'a')), of(&long(b'A')));
    }

    #[test]
    fn who_leaves_the_field_out_has_one_bucket_and_shares_none_with_strangers() {
        let of = |client: &str, values: &[&[u8]]| bytes(&tenant(), client, values).unwrap();
        let without = of("192.0.2.1", &[]);
        assert_eq!(without, of("192.0.2.1", &[b""]));
        assert_eq!(without, of("::ffff:192.0.2.1", &[b" ", b","]));
        assert_ne!(without, of("192.0.2.2", &[]));
        // Nor can a stranger name that bucket.
        assert_ne!(without, of("192.0.2.2", &[b"192.0.2.1"]));
        let without = of("192.168.128.129", &[]);
        assert_ne!(without, of("192.0.2.2", &[&[192, 168, 128, 129]]));
        assert_eq!(bytes(&tenant(), "", &[]), None);
        assert!(bytes(&tenant(), "", &[b"acme"]).is_some());
    }

    #[test]
    fn composite_keys_are_alike_only_if_every_part_is() {
        use LimitKeyPart::{Address, Header, Route};
        let name = HeaderName::from_static("x-tenant");
        let parts = vec![Address, Route, Header(name)];
        let both = LimitKey { parts, prefixes: Prefixes::default() };
        let of = |client: &str, values: &[&[u8]]| bytes(&both, client, values);
        assert_eq!(of("192.0.2.1", &[b"a"]), of("192.0.2.1", &[b"A"]));
        assert_ne!(of("192.0.2.1", &[b"a"]), of("192.0.2.2", &[b"a"]));
        assert_ne!(of("192.0.2.1", &[b"a"]), of("192.0.2.1", &[b"b"]));
        assert_eq!(of("", &[b"a"]), None);
    }

    #[test]
    fn a_key_is_one_word() {
        let parts = vec![LimitKeyPart::Route, LimitKeyPart::Claim("https://a.test/x \"y\"".into())];
        let key = LimitKey { parts, prefixes: Prefixes::default() };
        assert_eq!(key.word(), "route+claim:https:__a.test_x__y_");
        assert_eq!(LimitKey::default().word(), "address");
        assert_eq!(tenant().word(), "header:x-tenant");
    }

    #[test]
    fn a_route_is_one_bucket_also_for_those_without_an_address() {
        assert_eq!(numbers(&key(LimitKeyPart::Route), &["192.0.2.1", "::1", ""]), [Some(0); 3]);
    }
}
