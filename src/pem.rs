//! placeholder
use rustls::pki_types::CertificateDer;
use std::io;
use std::path::Path;
/// x
pub fn read_certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let _ = path;
    Ok(vec![])
}
