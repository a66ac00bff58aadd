//! TLS from clients.

mod settings;

pub use settings::{CertificateSettings, TlsSettings, TlsVersion};
