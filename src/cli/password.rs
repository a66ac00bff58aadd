//! `tollgate hash-password`.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::Failure;
use crate::layers::{PasswordHash, PasswordScheme, check_user};

/// As many bytes of a line are read at the most; a password has fewer.
const LONGEST: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct Asked {
    /// Print a whole line of an htpasswd file, for this user.
    #[arg(long, value_name = "NAME", value_parser = user)]
    user: Option<String>,
    /// Hash with bcrypt instead of argon2id, for files that other programs read too.
    #[arg(long)]
    bcrypt: bool,
}

fn user(name: &str) -> Result<String, String> {
    check_user(name).map(|()| name.to_owned())
}

pub(super) fn hash(asked: &Asked) -> Result<(), Failure> {
    let password = if io::stdin().is_terminal() { ask()? } else { line()? };
    let scheme = if asked.bcrypt { PasswordScheme::Bcrypt } else { PasswordScheme::Argon2id };
    let hash = PasswordHash::of(&password, scheme)
        .map_err(|error| Failure::io("cannot hash the password")(io::Error::other(error)))?;
    match &asked.user {
        Some(user) => println!("{user}:{hash}"),
        None => println!("{hash}"),
    }
    Ok(())
}

/// One line of standard input.
fn line() -> Result<Zeroizing<String>, Failure> {
    let what = "cannot read a password from standard input";
    // With room for all of it nothing is left behind where it was before.
    let mut line = Zeroizing::new(String::with_capacity(LONGEST as usize));
    io::Read::take(io::stdin().lock(), LONGEST).read_line(&mut line).map_err(Failure::io(what))?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

/// Asks at the terminal, twice.
fn ask() -> Result<Zeroizing<String>, Failure> {
    let quiet = Quiet::begin()?;
    let password = prompted("Password: ")?;
    let again = prompted("Once more: ")?;
    drop(quiet);
    if *password == *again {
        return Ok(password);
    }
    Err(Failure::Refused("these are two passwords, not one".to_owned()))
}

fn prompted(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let what = "cannot ask for a password";
    let mut terminal = io::stderr().lock();
    write!(terminal, "{prompt}").and_then(|()| terminal.flush()).map_err(Failure::io(what))?;
    let read = line();
    // The end of the line was not shown either.
    writeln!(terminal).map_err(Failure::io(what))?;
    read
}

/// The terminal does not show what is typed until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> Result<Self, Failure> {
        let what = "cannot keep the terminal from showing a password";
        let wrong = |error: rustix::io::Errno| Failure::io(what)(error.into());
        let before = tcgetattr(io::stdin()).map_err(wrong)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet).map_err(wrong)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _gone = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
