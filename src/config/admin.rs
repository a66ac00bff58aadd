//! `[admin]`, also by itself: whoever wants to tell a running proxy that its file is
//! right again must find it while the file is wrong.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::problem::Problems;
use super::reader::{Fits, Misfit, Table, Value};
use super::units::{Secret, secret_or_digest, socket_address};
use super::{AdminSettings, LoadError, says_where};

/// How to reach the admin listener of the proxy that a file configures.
#[derive(Debug)]
pub struct AdminAccess {
    /// Where it listens, as seen from this machine; `None` if there is none.
    pub address: Option<SocketAddr>,
    /// The token it asks for, if it can be read here.
    pub token: Option<Zeroizing<String>>,
    /// What could not be made out. Defaults were taken in its place.
    pub warnings: Vec<String>,
}

/// Reads nothing but `[admin]` of a file, and goes by the defaults where that is
/// missing or wrong. What else is wrong with the file does not matter here.
#[must_use]
pub fn admin_access(path: &Path) -> AdminAccess {
    let mut warnings = Vec::new();
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
        warnings.extend(LoadError::unreadable(path, &error).lines());
        String::new()
    });
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let problems = Problems::new(&text);
    let (document, errors) = DeTable::parse_recoverable(&text);
    let mut root = Table::root(&document, &problems);
    if !errors.is_empty() && !root.has("admin") {
        let shown = path.display();
        warnings.push(format!("{shown} is no TOML, and no [admin] can be made out in it"));
    }
    let (settings, token) = parts(&mut root, base);
    warnings.extend(problems.into_error(path).lines());
    let token = match token {
        Some(Secret::Read(token)) => Some(token),
        _ => None,
    };
    AdminAccess { address: settings.map(|admin| from_here(admin.address)), token, warnings }
}

/// Who listens on every address listens on loopback.
fn from_here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

pub(super) fn read(root: &mut Table<'_>, base: &Path) -> Option<AdminSettings> {
    parts(root, base).0
}

fn parts(root: &mut Table<'_>, base: &Path) -> (Option<AdminSettings>, Option<Secret>) {
    let mut admin = AdminSettings::default();
    let Some(mut table) = root.table("admin") else { return (Some(admin), None) };
    let enabled = table.read("enabled", Value::boolean).unwrap_or(true);
    table.set("address", &mut admin.address, socket_address);
    let token = table.read("token", |value| token(value, base));
    admin.token = token.as_ref().map(Secret::digest);
    table.finish(&[
        ("listen", "address"),
        ("port", "address"),
        ("key", "token"),
        ("password", "token"),
        ("secret", "token"),
    ]);
    (enabled.then_some(admin), token)
}

/// A secret that can stand behind `Bearer` (RFC 6750 §2.1).
fn token(value: &Value<'_>, base: &Path) -> Fits<Secret> {
    if !value.string("").is_ok_and(says_where) {
        value.conceal();
    }
    let token = secret_or_digest(value, base, "token")?;
    if let Secret::Read(text) = &token {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if !text.bytes().all(fits) {
            return Err(Misfit::new("a token is of letters, digits and `-._~+/=` only")
                .hint("`tollgate hash-key --generate` makes one"));
        }
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(text: &str) -> AdminAccess {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("token"), "t0ken\n").unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        admin_access(&path)
    }

    #[test]
    fn the_admin_address_is_found_in_a_file_that_is_wrong_elsewhere() {
        for wrong in
            ["[server]\nworkers = 0\n", "[sever]\nworkers = 5\n", "[server]\nworkers = = 2\n"]
        {
            let admin = "[admin]\naddress = \"127.0.0.1:7000\"\ntoken = \"file:token\"\n";
            for text in [format!("{wrong}{admin}"), format!("{admin}{wrong}")] {
                let access = access(&text);
                assert_eq!(access.address, Some(([127, 0, 0, 1], 7000).into()), "{text}");
                assert_eq!(access.token.as_deref().map(String::as_str), Some("t0ken"), "{text}");
                assert!(access.warnings.is_empty(), "{text}: {:?}", access.warnings);
            }
        }
    }

    #[test]
    fn what_cannot_be_made_out_is_said_and_the_default_taken() {
        let default = Some(AdminSettings::default().address);
        let missing = admin_access(Path::new("/no/such/file.toml"));
        assert_eq!(missing.address, default);
        assert!(missing.warnings[0].contains("/no/such/file.toml"), "{:?}", missing.warnings);
        let wrong = access("[admin]\naddress = \":7000\"\ntoken = \"hunter2\"\n");
        assert_eq!(wrong.address, default);
        assert!(wrong.token.is_none());
        assert_eq!(wrong.warnings.len(), 2, "{:?}", wrong.warnings);
        assert!(!wrong.warnings.join("").contains("hunter2"), "{:?}", wrong.warnings);
        let garbled = access("[[[\n");
        assert_eq!(garbled.address, default);
        assert!(garbled.warnings[0].contains("no TOML"), "{:?}", garbled.warnings);
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        let here = access("[admin]\naddress = \"0.0.0.0:7000\"\n").address;
        assert_eq!(here, Some(([127, 0, 0, 1], 7000).into()));
        let here = access("[admin]\naddress = \"[::]:7000\"\n").address;
        assert_eq!(here, Some((Ipv6Addr::LOCALHOST, 7000).into()));
        assert_eq!(access("[admin]\nenabled = false\n").address, None);
    }
}
