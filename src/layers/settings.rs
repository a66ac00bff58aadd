//! What a route's layers are told.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use crate::hex::hex;
use http::Method;
use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Which methods a route takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MethodSettings {
    /// These, and HEAD where GET is one of them. Names are in capitals, as
    /// registered methods are (RFC 9110 §9.1).
    pub methods: Vec<Method>,
}

/// The SHA-256 digest of an API key: all that Tollgate keeps of it.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Takes a digest that was made elsewhere.
    #[must_use]
    pub fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// It in hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// Compares without telling, by the time it takes, where they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> Choice {
        self.words().ct_eq(&other.words())
    }

    /// In words, of which there are fewer to compare than bytes.
    fn words(&self) -> [u64; 4] {
        let (mut words, (bytes, _)) = ([0; 4], self.0.as_chunks());
        for (word, bytes) in words.iter_mut().zip(bytes) {
            *word = u64::from_ne_bytes(*bytes);
        }
        words
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other).into()
    }
}

impl Eq for KeyDigest {}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

/// What gRPC calls are held to, and whether gRPC-Web is understood.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GrpcSettings {
    /// Makes gRPC calls of gRPC-Web calls. Default false.
    pub web: bool,
    /// The longest a call may take to the end of its response, even if its
    /// `grpc-timeout` says more or it has none. Default none.
    pub max_timeout: Option<Duration>,
}

/// Changes to the fields of requests and responses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderRewriteSettings {
    /// On the request, before it is forwarded.
    pub request: HeaderChanges,
    /// On the response, before it is sent.
    pub response: HeaderChanges,
}

/// Changes to a field section, carried out in this order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HeaderChanges {
    /// Fields taken out, every line of them.
    pub remove: Vec<HeaderName>,
    /// Fields put in the place of any there were.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields added to those there are.
    pub append: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// What is done to responses unless told otherwise: what an origin says of
    /// its own software is taken out, and `Server` names Tollgate.
    #[must_use]
    pub fn response_defaults() -> Self {
        let names =
            ["x-powered-by", "x-aspnet-version", "x-aspnetmvc-version", "x-generator", "x-runtime"];
        Self {
            remove: names.into_iter().map(HeaderName::from_static).collect(),
            set: vec![(http::header::SERVER, HeaderValue::from_static(crate::respond::PRODUCT))],
            append: Vec::new(),
        }
    }
}

/// Who is believed when a request says where it comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustSettings {
    /// Proxies in front of Tollgate whose `X-Forwarded-*` and `Forwarded` are
    /// believed. Default none.
    pub proxies: Vec<IpNet>,
    /// Whether whoever connects over a Unix socket is such a proxy. Default false.
    pub unix: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_if_every_byte_does() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8);
        let digest = KeyDigest::from_bytes(bytes);
        assert!(digest == KeyDigest::from_bytes(bytes));
        for index in 0..32 {
            let mut other = bytes;
            other[index] ^= 0x80;
            assert!(digest != KeyDigest::from_bytes(other), "{index}");
        }
    }
}
