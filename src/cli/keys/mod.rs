//! `tollgate hash-key` and `tollgate keys`.

mod asked;
mod file;
mod made;

use std::io::BufRead;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use rustls::crypto::aws_lc_rs;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Failure;
use crate::hex::hex;
use asked::Wanted;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key, print it once, and store what it hashes to.
    New(Wanted),
    /// List the keys of a file.
    List {
        /// The file.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Take keys out of a file.
    Revoke {
        /// The file.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        which: Which,
    },
}

/// Keys that are there.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// The key of this id.
    #[arg(long)]
    id: Option<String>,
    /// Every key of this name.
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn run(command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::New(wanted) => asked::new(&wanted),
        KeysCommand::List { file } => file::list(&file),
        KeysCommand::Revoke { file, which: Which { id, name } } => {
            file::revoke(&file, id.as_deref(), name.as_deref())
        }
    }
}

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
    random.fill(&mut *bytes).map_err(|_| no_randomness())?;
    Ok(Zeroizing::new(hex(&*bytes)))
}

fn no_randomness() -> Failure {
    Failure::io("cannot make a key")(std::io::Error::other("the system has no randomness"))
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
