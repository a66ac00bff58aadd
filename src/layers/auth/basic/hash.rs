//! Passwords as they are stored: hashed so that trying one costs time and memory.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use argon2::password_hash::phc::{self, Output, ParamsString, Salt};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand;
use base64::Engine;
use base64::alphabet::BCRYPT;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use subtle::ConstantTimeEq;

/// The most memory that one verification may take, in KiB: 64 MiB, which the defaults of
/// every library that we know of stay within.
const MOST_MEMORY: u32 = 64 * 1024;
/// The most passes over that memory.
const MOST_PASSES: u32 = 16;
/// The most lanes. They are worked on one after the other.
const MOST_LANES: u32 = 16;
/// The shortest digest that means anything, in bytes.
const SHORTEST: usize = 16;
/// bcrypt's cost: how many times its work is doubled. Sixteen take seconds.
const BCRYPT_COST: std::ops::RangeInclusive<u32> = 4..=14;
/// As long as passwords may be for bcrypt, which looks no further.
const BCRYPT_LENGTH: usize = 72;
/// Some programs leave something in the last bits of the salt, where nothing belongs.
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &BCRYPT,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// The longest password that is looked at, in bytes.
pub const MAX_PASSWORD: usize = 1024;

/// A hashed password: argon2id or argon2i in the form of a PHC string, or bcrypt.
///
/// What verifying costs is bounded, whoever made the hash: 64 MiB of memory, 16 passes and
/// 16 lanes for argon2, a cost of 14 for bcrypt.
#[derive(Clone, Eq, PartialEq)]
pub struct PasswordHash(Arc<Form>);

#[derive(Clone, Eq, PartialEq)]
enum Form {
    Argon2 { algorithm: Algorithm, version: Version, params: Params, salt: Salt, output: Output },
    Bcrypt { cost: u32, salt: [u8; 16], output: [u8; 23] },
}

/// What verifying a hash takes: hashes that are alike in this take the same time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Effort {
    memory: u32,
    passes: u32,
    lanes: u32,
}

/// How a password is to be hashed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PasswordScheme {
    /// argon2id with 19 MiB, two passes and one lane, as OWASP recommends.
    #[default]
    Argon2id,
    /// bcrypt with a cost of 12.
    Bcrypt,
}

/// Why a text is no hashed password that can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordHashError {
    /// It looks like a password.
    #[error("a password does not stand there itself, but what argon2 or bcrypt makes of it")]
    Plain,
    /// A hash that is made as fast as it is tried: SHA-1, MD5, crypt.
    #[error("{0} is too fast to keep a password from being guessed")]
    Weak(&'static str),
    /// A kind of hash that is not supported.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The hash is not whole, or is written wrongly.
    #[error("the {0} hash is not whole")]
    Broken(&'static str),
    /// Verifying it would cost too much.
    #[error("{what} is {value}, and {most} is the most")]
    TooDear {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        value: u32,
        /// How much there may be.
        most: u32,
    },
}

/// Why a password cannot be hashed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordError {
    /// There is none.
    #[error("the password is empty")]
    Empty,
    /// It is longer than [`MAX_PASSWORD`].
    #[error("the password is longer than {MAX_PASSWORD} bytes")]
    TooLong,
    /// bcrypt would look at part of it only.
    #[error("bcrypt looks at the first {BCRYPT_LENGTH} bytes of a password only; this is longer")]
    TooLongForBcrypt,
    /// RFC 7617 §2 has none in a password.
    #[error("a password has no control characters")]
    Control,
    /// The system has no randomness, or no memory.
    #[error("the system has no randomness or no memory for it")]
    System,
}

impl PasswordHash {
    /// Hashes a password, with salt of its own.
    ///
    /// # Errors
    ///
    /// See [`PasswordError`].
    pub fn of(password: &str, scheme: PasswordScheme) -> Result<Self, PasswordError> {
        match password.len() {
            0 => return Err(PasswordError::Empty),
            length if length > MAX_PASSWORD => return Err(PasswordError::TooLong),
            length if scheme == PasswordScheme::Bcrypt && length > BCRYPT_LENGTH => {
                return Err(PasswordError::TooLongForBcrypt);
            }
            _ if password.chars().any(char::is_control) => return Err(PasswordError::Control),
            _ => {}
        }
        let mut salt = [0; 16];
        rand::fill(&mut salt).map_err(|_| PasswordError::System)?;
        let form = match scheme {
            PasswordScheme::Argon2id => {
                let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
                let (params, mut output) = (Params::DEFAULT, [0; 32]);
                Argon2::new(algorithm, version, params.clone())
                    .hash_password_into(password.as_bytes(), &salt, &mut output)
                    .map_err(|_| PasswordError::System)?;
                let salt = Salt::new(&salt).map_err(|_| PasswordError::System)?;
                let output = Output::new(&output).map_err(|_| PasswordError::System)?;
                Form::Argon2 { algorithm, version, params, salt, output }
            }
            PasswordScheme::Bcrypt => {
                let cost = bcrypt::DEFAULT_COST;
                Form::Bcrypt { cost, salt, output: bcrypted(cost, salt, password.as_bytes()) }
            }
        };
        Ok(Self(Arc::new(form)))
    }

    /// Whether it is this password's; `None` if there is no memory to tell. Takes the time
    /// that it is meant to take: not for a thread that others wait for.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> Option<bool> {
        match &*self.0 {
            Form::Argon2 { algorithm, version, params, salt, output } => {
                let mut made = zeroize::Zeroizing::new([0; Output::MAX_LENGTH]);
                let made = made.get_mut(..output.len())?;
                Argon2::new(*algorithm, *version, params.clone())
                    .hash_password_into(password, salt.as_ref(), made)
                    .ok()?;
                Some(made.ct_eq(output.as_bytes()).into())
            }
            Form::Bcrypt { cost, salt, output } => {
                Some(bcrypted(*cost, *salt, password).ct_eq(output).into())
            }
        }
    }

    /// A hash of nobody's password that takes as long to verify.
    pub(super) fn decoy(&self) -> Self {
        let mut form = (*self.0).clone();
        let mut random = [0; Output::MAX_LENGTH];
        // What is random in it only keeps the decoy from being known. It lets nobody in
        // whatever it is: see `Basic`.
        let _unlucky = rand::fill(&mut random);
        match &mut form {
            Form::Argon2 { output, .. } => {
                if let Some(random) = random.get(..output.len()) {
                    *output = Output::new(random).unwrap_or(*output);
                }
            }
            Form::Bcrypt { output, .. } => output.copy_from_slice(&random[..23]),
        }
        Self(Arc::new(form))
    }

    /// A hash where there is nobody.
    pub(super) fn nobodys() -> Self {
        Self(Arc::new(Form::Bcrypt { cost: 4, salt: [0; 16], output: [0; 23] }))
    }

    pub(super) fn effort(&self) -> Effort {
        match &*self.0 {
            Form::Argon2 { params, .. } => {
                Effort { memory: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() }
            }
            Form::Bcrypt { cost, .. } => Effort { memory: 0, passes: *cost, lanes: 0 },
        }
    }

    /// Whether it takes as long to verify as the other.
    pub(crate) fn is_as_dear_as(&self, other: &Self) -> bool {
        self.effort() == other.effort()
    }

    /// The cost of bcrypt, if it is by that.
    pub(crate) fn bcrypt_cost(&self) -> Option<u32> {
        match &*self.0 {
            Form::Argon2 { .. } => None,
            Form::Bcrypt { cost, .. } => Some(*cost),
        }
    }

    /// What tells it from every other hash.
    pub(super) fn mark(&self) -> (&[u8], &[u8]) {
        match &*self.0 {
            Form::Argon2 { salt, output, .. } => (salt.as_ref(), output.as_bytes()),
            Form::Bcrypt { salt, output, .. } => (salt, output),
        }
    }
}

fn bcrypted(cost: u32, salt: [u8; 16], password: &[u8]) -> [u8; 23] {
    // As bcrypt has it, the password ends with a zero, unless it is too long for that.
    let mut taken = zeroize::Zeroizing::new([0; BCRYPT_LENGTH]);
    let length = password.len().min(BCRYPT_LENGTH);
    taken[..length].copy_from_slice(&password[..length]);
    let made = bcrypt::bcrypt(cost, salt, &taken[..(length + 1).min(BCRYPT_LENGTH)]);
    std::array::from_fn(|index| made[index])
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        use PasswordHashError::{Plain, Unsupported, Weak};
        let name = text.strip_prefix('$').and_then(|rest| rest.split('$').next());
        let form = match name {
            Some("argon2id" | "argon2i") => argon2(text)?,
            Some("2a" | "2b" | "2y") => bcrypt_of(text)?,
            Some("argon2d") => {
                return Err(Unsupported("argon2d, which tells of the password by its time,"));
            }
            Some("2x" | "2") => return Err(Unsupported("this early and faulty bcrypt")),
            Some("scrypt" | "7") => return Err(Unsupported("scrypt")),
            Some("y" | "gy") => return Err(Unsupported("yescrypt")),
            Some("apr1" | "1") => return Err(Weak("MD5 (`$apr1$`, `$1$`)")),
            Some("5" | "6") => return Err(Weak("SHA-crypt (`$5$`, `$6$`)")),
            _ if text.starts_with("{SHA}") => return Err(Weak("SHA-1 (`{SHA}`)")),
            _ if text.starts_with("{SSHA}") => return Err(Weak("SHA-1 (`{SSHA}`)")),
            _ if is_crypt(text) => return Err(Weak("crypt, or a password such as this one,")),
            _ => return Err(Plain),
        };
        Ok(Self(Arc::new(form)))
    }
}

/// What the oldest `crypt` makes: thirteen characters, two of them salt.
fn is_crypt(text: &str) -> bool {
    text.len() == 13 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/'))
}

fn argon2(text: &str) -> Result<Form, PasswordHashError> {
    use PasswordHashError::{Broken, TooDear};
    const WHAT: &str = "argon2";
    let phc = phc::PasswordHash::new(text).map_err(|_| Broken(WHAT))?;
    let algorithm = Algorithm::try_from(phc.algorithm.as_str()).map_err(|_| Broken(WHAT))?;
    // The first version is what those are of that name none.
    let version = phc.version.map_or(Ok(Version::V0x10), Version::try_from);
    let version = version.map_err(|_| Broken(WHAT))?;
    let number = |name: &str| phc.params.get_decimal(name).ok_or(Broken(WHAT));
    let (memory, passes, lanes) = (number("m")?, number("t")?, number("p")?);
    for (what, value, most) in [
        ("the memory of the hash (`m`, in KiB)", memory, MOST_MEMORY),
        ("the number of passes of the hash (`t`)", passes, MOST_PASSES),
        ("the number of lanes of the hash (`p`)", lanes, MOST_LANES),
    ] {
        if value > most {
            return Err(TooDear { what, value, most });
        }
    }
    let (salt, output) = (phc.salt.ok_or(Broken(WHAT))?, phc.hash.ok_or(Broken(WHAT))?);
    if phc.params.iter().count() > 3 || output.len() < SHORTEST {
        return Err(Broken(WHAT));
    }
    let params = Params::new(memory, passes, lanes, Some(output.len()));
    let params = params.map_err(|_| Broken(WHAT))?;
    Ok(Form::Argon2 { algorithm, version, params, salt, output })
}

fn bcrypt_of(text: &str) -> Result<Form, PasswordHashError> {
    use PasswordHashError::{Broken, TooDear};
    let wrong = Broken("bcrypt");
    let mut parts = text.splitn(4, '$').skip(2);
    let (cost, rest) = parts.next().zip(parts.next()).ok_or(wrong)?;
    let digits = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
    let cost: u32 = cost.parse().ok().filter(|_| digits).ok_or(wrong)?;
    let (salt, output) = rest.split_at_checked(22).ok_or(wrong)?;
    if cost > *BCRYPT_COST.end() {
        let (what, most) = ("the cost of the hash", *BCRYPT_COST.end());
        return Err(TooDear { what, value: cost, most });
    }
    let salt = BCRYPT_BASE64.decode(salt).ok().and_then(|salt| salt.try_into().ok());
    let output = BCRYPT_BASE64.decode(output).ok().and_then(|output| output.try_into().ok());
    let (salt, output) = salt.zip(output).filter(|_| BCRYPT_COST.contains(&cost)).ok_or(wrong)?;
    Ok(Form::Bcrypt { cost, salt, output })
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Form::Argon2 { algorithm, version, params, salt, output } => {
                let phc = phc::PasswordHash {
                    algorithm: algorithm.ident(),
                    version: Some((*version).into()),
                    params: ParamsString::try_from(params).map_err(|_| fmt::Error)?,
                    salt: Some(*salt),
                    hash: Some(*output),
                };
                phc.fmt(f)
            }
            Form::Bcrypt { cost, salt, output } => {
                let (salt, output) = (BCRYPT_BASE64.encode(salt), BCRYPT_BASE64.encode(output));
                write!(f, "$2b${cost:02}${salt}{output}")
            }
        }
    }
}

/// Whoever has a hash may try passwords on it.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 4`.
    const ARGON2ID: &str =
        "$argon2id$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$GpZ3sK/oH9p7VIiV56G/64Zo/8GaUw434IimaPqxwCo";
    /// By `crypt_blowfish`, whose test this is.
    const BCRYPT: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy";

    #[test]
    fn hashes_of_others_are_read_verified_and_written() {
        for (text, password) in [(ARGON2ID, "password"), (BCRYPT, "")] {
            let hash: PasswordHash = text.parse().unwrap();
            assert_eq!(hash.verify(password.as_bytes()), Some(true), "{text}");
            assert_eq!(hash.verify(b"Password"), Some(false), "{text}");
            let written = hash.to_string();
            assert_eq!(written.replace("$2b$", "$2y$"), text);
            assert_eq!(written.parse::<PasswordHash>().as_ref(), Ok(&hash));
        }
        let bcrypt = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        assert_eq!(bcrypt.parse::<PasswordHash>().unwrap().verify(b"U*U"), Some(true));
    }

    #[test]
    fn what_is_hashed_here_is_verified_here() {
        for scheme in [PasswordScheme::Argon2id, PasswordScheme::Bcrypt] {
            let hash = PasswordHash::of("Pässwort", scheme).unwrap();
            let again: PasswordHash = hash.to_string().parse().unwrap();
            assert_eq!(again.verify("Pässwort".as_bytes()), Some(true));
            assert_eq!(again.verify(b"Passwort"), Some(false));
            assert_eq!(again.effort(), hash.decoy().effort());
            assert_eq!(hash.decoy().verify("Pässwort".as_bytes()), Some(false));
            assert_ne!(PasswordHash::of("Pässwort", scheme).unwrap(), hash);
            assert!(!format!("{hash:?}").contains('$'));
        }
    }

    #[test]
    fn what_cannot_be_a_password_is_not_hashed() {
        let of = |password: &str, scheme| PasswordHash::of(password, scheme).unwrap_err();
        let (argon2, bcrypt) = (PasswordScheme::Argon2id, PasswordScheme::Bcrypt);
        assert_eq!(of("", argon2), PasswordError::Empty);
        assert_eq!(of(&"x".repeat(1025), argon2), PasswordError::TooLong);
        assert_eq!(of(&"x".repeat(73), bcrypt), PasswordError::TooLongForBcrypt);
        assert_eq!(of("a\u{7}", argon2), PasswordError::Control);
    }

    #[test]
    fn what_is_weak_dear_or_broken_is_refused_by_its_name() {
        let why = |text: &str| text.parse::<PasswordHash>().unwrap_err().to_string();
        for (text, word) in [
            ("hunter2", "itself"),
            ("", "itself"),
            ("$$", "itself"),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "SHA-1"),
            ("$apr1$Q3j/7Zkv$1ZgXVZcRCAnDrcAXfcYqU0", "MD5"),
            ("rqXexS6ZhobKA", "crypt"),
            ("$5$MnfsQ4iN$ZMTppKN16y/tIsUYs/obHlhdP.Os80yXhTurpBMUbA5", "SHA-crypt"),
            (
                "$6$52450745$k5ka2p8bFuSmoVT1tzOyyuaREkkKBcCNqoDKzYiJL9RaE8yMnPgh2XzzF0NDrUhgrcLwg78xs1w5pJiypEdFX/",
                "SHA-crypt",
            ),
            ("$argon2d$v=19$m=8,t=1,p=1$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg", "argon2d"),
            (
                "$argon2id$v=19$m=65537,t=1,p=1$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg",
                "65536 is the most",
            ),
            (
                "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg",
                "65536 is the most",
            ),
            ("$argon2id$v=19$m=64,t=17,p=1$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg", "16 is the most"),
            ("$argon2id$v=19$m=1024,t=1,p=17$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg", "16 is the most"),
            ("$argon2id$v=19$m=1,t=1,p=1$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg", "not whole"),
            ("$argon2id$v=18$m=64,t=1,p=1$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg", "not whole"),
            ("$argon2id$v=19$m=64,t=1$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg", "not whole"),
            (
                "$argon2id$v=19$m=64,t=1,p=1,keyid=AA$c29tZXNhbHQ$WErJVnVCSrYxFhgIHRVzGg",
                "not whole",
            ),
            ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ", "not whole"),
            ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$WErJVnVCSrYxFg", "not whole"),
            ("$2y$15$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", "14 is the most"),
            ("$2y$03$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", "not whole"),
            ("$2y$5$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", "not whole"),
            ("$2y$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTW", "not whole"),
            ("$2y$05$éééééééééééééééééééééé", "not whole"),
            ("$2x$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", "faulty"),
        ] {
            assert!(why(text).contains(word), "{text}: {}", why(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\$(argon2id?|2[aby])\\$)?.{0,80}") {
            let _read = text.parse::<PasswordHash>();
        }
    }
}
