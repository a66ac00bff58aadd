//! `tollgate hash-key`.

use std::fmt::Write as _;
use std::io::BufRead;

use rustls::crypto::aws_lc_rs;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Failure;

pub(super) fn hash(generate: bool) -> Result<(), Failure> {
    let key = if generate { generated()? } else { read()? };
    if generate {
        println!("# give this key to the client; it is not stored anywhere:\n# {}", *key);
    }
    println!("key = \"sha256:{}\"", hex(&Sha256::digest(key.as_bytes())));
    Ok(())
}

fn read() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    let what = "cannot read a key from standard input";
    std::io::stdin().lock().read_line(&mut line).map_err(Failure::io(what))?;
    let key = Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned());
    if key.is_empty() {
        let cause = std::io::Error::other("it is empty; or use --generate");
        return Err(Failure::io(what)(cause));
    }
    Ok(key)
}

/// 256 random bits.
fn generated() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut *bytes).map_err(|_| {
        Failure::io("cannot make a key")(std::io::Error::other("the system has no randomness"))
    })?;
    Ok(Zeroizing::new(hex(&*bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_are_long_and_differ() {
        let (a, b) = (generated().unwrap(), generated().unwrap());
        assert_eq!(a.len(), 64);
        assert_ne!(a, b);
    }
}
