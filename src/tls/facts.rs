//! What is to be known of a certificate in use.

use std::path::PathBuf;

use crate::hex::hex;
use rustls::pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;

/// A certificate in use: the first of its chain.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CertificateFacts {
    /// The file it was read from.
    #[serde(serialize_with = "shown")]
    pub file: PathBuf,
    /// The server names it answers to.
    pub names: Vec<String>,
    /// From when it is valid, in RFC 3339.
    pub not_before: String,
    /// The same in seconds of the epoch.
    pub not_before_seconds: i64,
    /// Until when it is valid, in RFC 3339.
    pub not_after: String,
    /// The same in seconds of the epoch.
    pub not_after_seconds: i64,
    /// SHA-256 of its DER in hexadecimal, which is its usual fingerprint.
    pub sha256: String,
}

impl CertificateFacts {
    /// # Errors
    ///
    /// Why a certificate of the chain cannot be read.
    pub(super) fn of(
        file: PathBuf,
        names: Vec<String>,
        chain: &[CertificateDer<'_>],
    ) -> Result<Self, String> {
        let mut validity = None;
        for (at, one) in chain.iter().enumerate() {
            let read = CertificateInner::<Raw>::from_der(one).map_err(|error| {
                let (file, number) = (file.display(), at + 1);
                format!("certificate {number} in {file} is not well-formed: {error}")
            })?;
            validity.get_or_insert_with(|| *read.tbs_certificate().validity());
        }
        let (Some(leaf), Some(validity)) = (chain.first(), validity) else {
            return Err(format!("{} holds no certificate", file.display()));
        };
        let seconds = |time: x509_cert::time::Time| {
            i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
        };
        let (not_before, not_after) = (seconds(validity.not_before), seconds(validity.not_after));
        let sha256 = hex(&Sha256::digest(leaf));
        Ok(Self {
            file,
            names,
            not_before: rfc3339(not_before),
            not_before_seconds: not_before,
            not_after: rfc3339(not_after),
            not_after_seconds: not_after,
            sha256,
        })
    }

    /// Whether it is valid at this time, in seconds of the epoch.
    #[must_use]
    pub fn is_valid_at(&self, seconds: i64) -> bool {
        (self.not_before_seconds..=self.not_after_seconds).contains(&seconds)
    }
}

/// As RFC 3339 has it; the end of all days for what is beyond it.
pub(super) fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

fn shown<S: Serializer>(file: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&file.display())
}
