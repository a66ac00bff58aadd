//! Cookies that nobody can read, make or change.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::layers::SharedSecret;

/// How long a secret has to be, in bytes.
pub(super) const LEAST_SECRET: usize = 32;

/// Seals what cookies hold, for one purpose: what is sealed for another is not opened.
#[derive(Debug)]
pub(super) struct Sealer {
    /// The first seals, all of them open.
    keys: Vec<RandomizedNonceKey>,
    purpose: &'static str,
}

impl Sealer {
    /// By keys that are derived from these secrets (RFC 5869). `whose` tells apart those
    /// who use the same secrets.
    pub(super) fn new(
        secrets: &[SharedSecret],
        whose: &[&str],
        purpose: &'static str,
    ) -> Option<Self> {
        let key = |secret: &SharedSecret| {
            let mut info: Vec<&[u8]> = vec![purpose.as_bytes()];
            for part in whose {
                info.extend([&b"\0"[..], part.as_bytes()]);
            }
            let mut key = Zeroizing::new([0; 32]);
            let derived = Salt::new(HKDF_SHA256, b"tollgate oidc").extract(secret.reveal());
            derived.expand(&info, HKDF_SHA256).ok()?.fill(&mut *key).ok()?;
            RandomizedNonceKey::new(&AES_256_GCM_SIV, &*key).ok()
        };
        let keys: Option<Vec<_>> = secrets.iter().map(key).collect();
        Some(Self { keys: keys.filter(|keys| !keys.is_empty())?, purpose })
    }

    /// The value of a cookie that holds this.
    pub(super) fn seal(&self, content: &impl Serialize) -> Option<String> {
        let mut sealed = serde_json::to_vec(content).ok()?;
        let purpose = Aad::from(self.purpose.as_bytes());
        let nonce = self.keys.first()?.seal_in_place_append_tag(purpose, &mut sealed).ok()?;
        let whole = [nonce.as_ref(), &*sealed].concat();
        Some(BASE64_URL_SAFE_NO_PAD.encode(whole))
    }

    /// What a cookie holds, if it was sealed here, or by whoever has the secrets.
    pub(super) fn open<T: DeserializeOwned>(&self, value: &str) -> Option<T> {
        let whole = BASE64_URL_SAFE_NO_PAD.decode(value).ok()?;
        let (nonce, sealed) = whole.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            let (mut sealed, nonce) = (sealed.to_vec(), Nonce::from(nonce));
            let purpose = Aad::from(self.purpose.as_bytes());
            let opened = key.open_in_place(nonce, purpose, &mut sealed).ok()?;
            serde_json::from_slice(opened).ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(secrets: &[&str], whose: &str, purpose: &'static str) -> Sealer {
        let secrets: Vec<_> = secrets.iter().map(|one| SharedSecret::new(*one)).collect();
        Sealer::new(&secrets, &[whose], purpose).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_and_cannot_be_read_or_changed() {
        let sealer = sealer(&["secret"], "a", "session");
        let value = sealer.seal(&"alice").unwrap();
        assert_eq!(sealer.open(&value), Some("alice".to_owned()));
        let plain = BASE64_URL_SAFE_NO_PAD.decode(&value).unwrap();
        assert!(!plain.windows(5).any(|part| part == b"alice"));
        assert_ne!(sealer.seal(&"alice").unwrap(), value);
        for at in 0..plain.len() {
            let mut changed = plain.clone();
            changed[at] ^= 1;
            let changed = BASE64_URL_SAFE_NO_PAD.encode(changed);
            assert_eq!(sealer.open::<String>(&changed), None, "{at}");
        }
        for end in 0..value.len() {
            assert_eq!(sealer.open::<String>(&value[..end]), None, "{end}");
        }
        assert_eq!(sealer.open::<String>("!"), None);
    }

    #[test]
    fn it_is_opened_for_its_purpose_and_its_owner_only() {
        let value = sealer(&["secret"], "a", "session").seal(&"alice").unwrap();
        for (secret, whose, purpose) in
            [("other", "a", "session"), ("secret", "b", "session"), ("secret", "a", "login")]
        {
            let other = sealer(&[secret], whose, purpose);
            assert_eq!(other.open::<String>(&value), None, "{secret} {whose} {purpose}");
        }
    }

    #[test]
    fn a_secret_is_replaced_by_putting_another_before_it() {
        let old = sealer(&["old"], "a", "session");
        let both = sealer(&["new", "old"], "a", "session");
        let new = sealer(&["new"], "a", "session");
        let (by_old, by_both) = (old.seal(&1).unwrap(), both.seal(&2).unwrap());
        assert_eq!(both.open::<u8>(&by_old), Some(1));
        assert_eq!(new.open::<u8>(&by_both), Some(2));
        assert_eq!(old.open::<u8>(&by_both), None);
        assert_eq!(new.open::<u8>(&by_old), None);
        assert!(Sealer::new(&[], &["a"], "session").is_none());
    }
}
