//! Keys that are made here.

use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// What keys begin with, so that whoever looks for secrets that got away finds them.
const PREFIX: &str = "tg_";
/// So many characters are left to chance: 190 bits.
const RANDOM: usize = 32;
/// So many tell whether the others are whole.
const CHECK: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new key: `tg_`, 32 characters of chance (190 bits), `_`, and the CRC-32 of all before
/// that in six characters. Characters are digits and letters, so a double click takes all
/// of it.
///
/// `None`: the system has no randomness.
pub(super) fn key() -> Option<Zeroizing<String>> {
    // With room for all of it nothing is left behind where it was before.
    let mut key = Zeroizing::new(String::with_capacity(PREFIX.len() + RANDOM + 1 + CHECK));
    key.push_str(PREFIX);
    let mut bytes = Zeroizing::new([0; 64]);
    while key.len() < PREFIX.len() + RANDOM {
        rand::fill(&mut *bytes).ok()?;
        // Bytes of the last, incomplete round of digits would favour the first of them.
        let even = bytes.iter().filter(|byte| usize::from(**byte) < 256 / 62 * 62);
        let left = PREFIX.len() + RANDOM - key.len();
        key.extend(even.take(left).map(|byte| char::from(DIGITS[usize::from(*byte) % 62])));
    }
    let check = check(&key);
    key.push('_');
    key.push_str(&check);
    Some(key)
}

fn check(text: &str) -> String {
    let mut left = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECK];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(left % 62) as usize];
        left /= 62;
    }
    digits.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_alike_in_form_and_never_the_same() {
        let keys: Vec<_> = (0..200).map(|_| key().unwrap()).collect();
        let mut seen = std::collections::BTreeSet::new();
        for key in &keys {
            let (rest, told) = key.rsplit_once('_').unwrap();
            let random = rest.strip_prefix("tg_").unwrap();
            assert_eq!((random.len(), told.len()), (32, 6), "{}", **key);
            assert!(random.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(check(rest), told);
            assert!(seen.insert(random));
        }
        // Every digit comes about as often: of 6,400, each of 62 some hundred times.
        for digit in DIGITS {
            let often: usize =
                seen.iter().map(|key| key.bytes().filter(|b| b == digit).count()).sum();
            assert!((50..200).contains(&often), "{}: {often}", char::from(*digit));
        }
    }

    #[test]
    fn a_check_is_a_crc_of_six_digits() {
        assert_eq!(check(""), "000000");
        // CRC-32 of "123456789" is 0xCBF43926 = 3421780262.
        assert_eq!(check("123456789"), "3jZRME");
    }
}
