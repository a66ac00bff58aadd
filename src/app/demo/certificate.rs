//! A self-signed certificate, made when there is none.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair};

/// Whether a certificate was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Made {
    /// There was none, and now there is one.
    New,
    /// There was one, and it was left alone.
    AlreadyThere,
}

/// Makes `demo.crt` and `demo.key` in `dir` for localhost, 127.0.0.1 and
/// `[::1]`, unless they are there. Only the owner may read the key.
///
/// # Errors
///
/// The folder cannot be written to, or it has one of the two without the other.
pub fn ensure_certificate(dir: &Path) -> io::Result<Made> {
    let (certificate, key) = (dir.join("demo.crt"), dir.join("demo.key"));
    match (certificate.exists(), key.exists()) {
        (true, true) => return Ok(Made::AlreadyThere),
        (false, false) => {}
        (there, _) => {
            let (has, lacks) = if there { (certificate, key) } else { (key, certificate) };
            return Err(io::Error::other(format!(
                "{} is there but {} is not; remove the one or restore the other",
                has.display(),
                lacks.display()
            )));
        }
    }
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let pair = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "Tollgate demo");
    let made = params.self_signed(&pair).map_err(io::Error::other)?;
    fs::create_dir_all(dir)?;
    write_new(&key, &pair.serialize_pem(), 0o600)?;
    write_new(&certificate, &made.pem(), 0o644)?;
    Ok(Made::New)
}

fn write_new(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    options.open(path).and_then(|mut file| file.write_all(content.as_bytes())).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_only_its_owner_reads_the_key() {
        let dir = tempfile::TempDir::new().unwrap();
        let certs = dir.path().join("certs");
        assert_eq!(ensure_certificate(&certs).unwrap(), Made::New);
        let first = fs::read(certs.join("demo.crt")).unwrap();
        assert_eq!(ensure_certificate(&certs).unwrap(), Made::AlreadyThere);
        assert_eq!(fs::read(certs.join("demo.crt")).unwrap(), first);
        crate::pem::read_key(&certs.join("demo.key")).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(certs.join("demo.key")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn half_a_pair_is_not_overwritten() {
        let dir = tempfile::TempDir::new().unwrap();
        fs::write(dir.path().join("demo.key"), "mine").unwrap();
        let error = ensure_certificate(dir.path()).unwrap_err();
        assert!(error.to_string().contains("demo.crt is not"), "{error}");
    }
}
