//! Certificates and private keys from PEM files (RFC 7468).
//!
//! The one module that knows rustls-pemfile.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, SubjectPublicKeyInfoDer,
};

/// A PEM file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Something between its markers is not what PEM allows.
    #[error("{} is not well-formed PEM", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It has no certificate.
    #[error("{} holds no certificate (expected `-----BEGIN CERTIFICATE-----`)", .0.display())]
    NoCertificate(PathBuf),
    /// It has no private key.
    #[error(
        "{} holds no private key (expected `-----BEGIN PRIVATE KEY-----`, `RSA PRIVATE KEY` or \
         `EC PRIVATE KEY`; an encrypted key must be decrypted first)",
        .0.display()
    )]
    NoKey(PathBuf),
    /// It has no public key.
    #[error("{} holds no public key (expected `-----BEGIN PUBLIC KEY-----`)", .0.display())]
    NoPublicKey(PathBuf),
    /// It has no revocation list.
    #[error(
        "{} holds no revocation list (expected `-----BEGIN X509 CRL-----`; `openssl crl -inform \
         DER` makes that of another form)",
        .0.display()
    )]
    NoRevocationList(PathBuf),
}

/// Reads every certificate of a file, in its order.
///
/// # Errors
///
/// The file cannot be read, or has no certificate.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Vec<_> = rustls_pemfile::certs(&mut open(path)?)
        .collect::<Result<_, _>>()
        .map_err(|cause| PemError::Malformed { path: path.to_owned(), cause })?;
    if certificates.is_empty() {
        return Err(PemError::NoCertificate(path.to_owned()));
    }
    Ok(certificates)
}

/// Reads the first private key of a file: PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
///
/// The file cannot be read, or has no private key.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let key = rustls_pemfile::private_key(&mut open(path)?)
        .map_err(|cause| PemError::Malformed { path: path.to_owned(), cause })?;
    key.ok_or_else(|| PemError::NoKey(path.to_owned()))
}

/// Reads the first public key of a file: a `SubjectPublicKeyInfo` (RFC 5280 §4.1).
///
/// # Errors
///
/// The file cannot be read, or has no public key.
pub fn read_public_key(path: &Path) -> Result<SubjectPublicKeyInfoDer<'static>, PemError> {
    let first = rustls_pemfile::public_keys(&mut open(path)?).next();
    let key =
        first.transpose().map_err(|cause| PemError::Malformed { path: path.to_owned(), cause })?;
    key.ok_or_else(|| PemError::NoPublicKey(path.to_owned()))
}

/// Reads every list of revoked certificates of a file, in its order.
///
/// # Errors
///
/// The file cannot be read, or has no such list.
pub fn read_revocation_lists(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let lists: Vec<_> = rustls_pemfile::crls(&mut open(path)?)
        .collect::<Result<_, _>>()
        .map_err(|cause| PemError::Malformed { path: path.to_owned(), cause })?;
    if lists.is_empty() {
        return Err(PemError::NoRevocationList(path.to_owned()));
    }
    Ok(lists)
}

fn open(path: &Path) -> Result<BufReader<File>, PemError> {
    let file = File::open(path);
    file.map(BufReader::new).map_err(|cause| PemError::Unreadable { path: path.to_owned(), cause })
}

/// Warns of the file of a private key that others may read as well.
#[cfg(unix)]
pub fn warn_if_exposed(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(metadata) = path.metadata() else { return };
    let mode = metadata.permissions().mode();
    if mode & 0o007 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{:o}", mode & 0o777),
            "everyone on this machine may read this private key; `chmod 600` it"
        );
    }
}

/// There are no modes to warn of.
#[cfg(not(unix))]
pub fn warn_if_exposed(_path: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn what_is_missing_from_a_file_is_said() {
        let empty = file("");
        let error = read_certificates(empty.path()).unwrap_err();
        assert!(matches!(error, PemError::NoCertificate(_)), "{error}");
        let error = read_key(empty.path()).unwrap_err();
        assert!(matches!(error, PemError::NoKey(_)), "{error}");
        let error = read_public_key(empty.path()).unwrap_err();
        assert!(matches!(error, PemError::NoPublicKey(_)), "{error}");
        let error = read_revocation_lists(empty.path()).unwrap_err();
        assert!(matches!(error, PemError::NoRevocationList(_)), "{error}");
        let error = read_key(Path::new("/nonexistent/key.pem")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/key.pem"), "{error}");
    }

    #[test]
    fn broken_base64_is_malformed() {
        let broken = file("-----BEGIN CERTIFICATE-----\n@@@\n-----END CERTIFICATE-----\n");
        let error = read_certificates(broken.path()).unwrap_err();
        assert!(matches!(error, PemError::Malformed { .. }), "{error}");
    }
}
