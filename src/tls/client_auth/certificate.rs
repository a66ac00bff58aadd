//! What a client's certificate says.
//!
//! That it was verified says who vouches for it, and not that every field is as it should
//! be: webpki looks at few of them. So nothing here trusts any, and how long they are is
//! bounded by the longest message of a handshake, 64 KiB.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::asn1::OctetString;
use x509_cert::der::{AnyRef, Decode, Reader, SliceReader, Tag, TagNumber, Tagged};

use super::name;
use crate::context::{ClientCertificate, SubjectName};
use crate::hex::hex;

/// subjectAltName (RFC 5280 §4.2.1.6).
const ALTERNATIVE_NAMES: &str = "2.5.29.17";

/// Reads the first of these, which is the client's own. `authority` vouches for it.
///
/// # Errors
///
/// There is none, or it is not a certificate.
pub(in crate::tls) fn client_certificate(
    chain: &[CertificateDer<'_>],
    authority: &str,
) -> Result<ClientCertificate, &'static str> {
    let leaf = chain.first().ok_or("there is no certificate")?;
    let read = CertificateInner::<Raw>::from_der(leaf).map_err(|_| "it is not well-formed")?;
    let tbs = read.tbs_certificate();
    let extensions = tbs.extensions().map_or(&[][..], |extensions| extensions);
    let mut alternative =
        extensions.iter().filter(|one| one.extn_id.to_string() == ALTERNATIVE_NAMES);
    let names = match (alternative.next(), alternative.next()) {
        (Some(one), None) => names(&one.extn_value),
        // RFC 5280 §4.2: there must not be two.
        _ => Vec::new(),
    };
    Ok(ClientCertificate {
        subject: name::text(tbs.subject()).into(),
        common_name: name::common_name(tbs.subject()),
        issuer: name::text(tbs.issuer()).into(),
        authority: authority.into(),
        serial: serial(tbs.serial_number().as_bytes()).into(),
        names: names.into(),
        sha256: hex(&Sha256::digest(leaf)).into(),
        not_after: not_after(&read),
        chain: chain.iter().map(|one| Box::from(&**one)).collect(),
    })
}

/// Until when the shortest-lived of these certificates is valid, in seconds of the epoch;
/// `None` if one cannot be read.
pub(super) fn valid_until<'a>(
    chain: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> Option<i64> {
    let ends = chain.into_iter().map(|one| CertificateInner::<Raw>::from_der(one).ok());
    ends.map(|read| read.as_ref().map(not_after)).min_by_key(|end| end.unwrap_or(i64::MIN))?
}

fn not_after(certificate: &CertificateInner<Raw>) -> i64 {
    let time = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The names in the extension, as far as it is well-formed: one name less lets nobody in.
fn names(extension: &OctetString) -> Vec<SubjectName> {
    let mut found = Vec::new();
    let sequence =
        AnyRef::from_der(extension.as_bytes()).ok().filter(|all| all.tag() == Tag::Sequence);
    let Some(mut reader) = sequence.and_then(|all| SliceReader::new(all.value()).ok()) else {
        return found;
    };
    while !reader.is_finished() {
        let Ok(one) = AnyRef::decode(&mut reader) else { return Vec::new() };
        found.extend(subject_name(one));
    }
    found
}

fn subject_name(one: AnyRef<'_>) -> Option<SubjectName> {
    let Tag::ContextSpecific { constructed: false, number } = one.tag() else { return None };
    let text = || {
        let plain = !one.value().is_empty() && one.value().iter().all(u8::is_ascii_graphic);
        plain.then(|| String::from_utf8_lossy(one.value()).into_owned())
    };
    match number {
        TagNumber(1) => text().map(|text| SubjectName::Email(text.into())),
        TagNumber(2) => text().map(|text| SubjectName::Dns(text.to_ascii_lowercase().into())),
        TagNumber(6) => text().map(|text| SubjectName::Uri(text.into())),
        TagNumber(7) => {
            let v4 = || <[u8; 4]>::try_from(one.value()).map(IpAddr::from);
            let address = v4().or_else(|_| <[u8; 16]>::try_from(one.value()).map(IpAddr::from));
            address.ok().map(SubjectName::Ip)
        }
        _ => None,
    }
}

fn serial(bytes: &[u8]) -> String {
    let hex = hex(bytes);
    let trimmed = hex.trim_start_matches('0');
    if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from(0x0a_u64));
        let uri = "spiffe://test/a".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn read(der: Vec<u8>) -> Result<ClientCertificate, &'static str> {
        client_certificate(&[CertificateDer::from(der)], "CN=Clients")
    }

    #[test]
    fn numbers_are_as_others_write_them() {
        assert_eq!(&*read(made()).unwrap().serial, "a");
        assert_eq!(serial(&[0, 0]), "0");
        assert_eq!(serial(&[0x80, 0]), "8000");
        assert!(client_certificate(&[], "").is_err());
        assert_eq!(valid_until(&[CertificateDer::from(vec![0x30, 0])]), None);
    }

    #[test]
    fn names_that_are_not_plain_or_not_well_formed_let_nobody_in() {
        let names = |bytes: &[u8]| names(&OctetString::new(bytes).unwrap());
        let dns = |text: &str| SubjectName::Dns(text.into());
        assert_eq!(names(b"\x30\x03\x82\x01A"), [dns("a")]);
        assert_eq!(names(b"\x30\x08\x82\x01a\x82\x03b\0c"), [dns("a")]);
        assert_eq!(names(b"\x30\x06\x82\x01a\x87\x01a"), [dns("a")], "no IP address");
        for odd in [
            &b""[..],
            b"\x30\x00",
            b"\x30\x02\x82\x00",
            b"\x30\x03\xa2\x01a",
            b"\x30\x03\x88\x01a",
            b"\x31\x03\x82\x01a",
            b"\x30\x05\x82\x01a\x82\x05",
            b"\x30\x03\x82\x01a\x00",
        ] {
            assert_eq!(names(odd), [], "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            at in 0..400_usize,
            length in 0..9_usize,
            with in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut der = made();
            let at = at.min(der.len());
            let end = (at + length).min(der.len());
            der.splice(at..end, with);
            if let Ok(read) = read(der) {
                prop_assert!(!read.subject.chars().any(char::is_control));
                prop_assert!(read.names.iter().all(|one| !one.value().contains(char::is_control)));
            }
        }
    }
}
