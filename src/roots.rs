//! Whose certificates are believed of those that Tollgate connects to.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;

use crate::pem;

/// There is nobody to believe.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The bundle cannot be used.
    #[error("cannot trust the certificates in {}: {reason}", path.display())]
    Bundle {
        /// The bundle.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no trusted certificates.
    #[error("no trusted certificates were found on this system; install `ca-certificates`")]
    NoneOnSystem,
}

/// The certificates of a PEM bundle; without one, those that the system believes.
///
/// # Errors
///
/// The bundle cannot be used, or the system believes nobody.
pub fn trusted(bundle: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = bundle else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return if roots.is_empty() { Err(RootsError::NoneOnSystem) } else { Ok(roots) };
    };
    let wrong = |reason: String| RootsError::Bundle { path: path.to_owned(), reason };
    for certificate in pem::read_certificates(path).map_err(|error| wrong(error.to_string()))? {
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_all_that_is_believed_where_there_is_one() {
        let certified = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certified.cert.pem()).unwrap();
        assert_eq!(trusted(Some(file.path())).unwrap().len(), 1);
    }

    #[test]
    fn a_bundle_that_is_none_is_named() {
        let error = trusted(Some(Path::new("/nonexistent/ca.pem"))).unwrap_err();
        assert!(matches!(&error, RootsError::Bundle { .. }), "{error}");
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    }
}
