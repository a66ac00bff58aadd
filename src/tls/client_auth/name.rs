//! Distinguished names as text (RFC 4514).
//!
//! x509-cert writes them, too, but calls many attributes by numbers or by whichever of
//! their names is the shortest. Here they are called what OpenSSL calls them, so that
//! `openssl x509 -noout -subject -nameopt RFC2253,-esc_msb` prints what is configured.

use std::fmt::Write as _;

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Encode, Tag, Tagged};
use x509_cert::name::Name;

/// The attributes that have names.
const ATTRIBUTES: [(&str, &str); 18] = [
    ("2.5.4.3", COMMON_NAME),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

const COMMON_NAME: &str = "CN";

/// A name as text, its last part first.
pub(super) fn text(name: &Name) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (at, part) in parts.into_iter().rev().enumerate() {
        if at > 0 {
            text.push(',');
        }
        for (at, attribute) in part.iter().enumerate() {
            if at > 0 {
                text.push('+');
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

/// The last common name, if it is one that may stand anywhere.
pub(super) fn common_name(name: &Name) -> Option<Box<str>> {
    let mut all: Vec<_> = name.iter().filter(|one| known(&one.oid) == Some(COMMON_NAME)).collect();
    let value = string(all.pop()?)?;
    let plain = !value.trim().is_empty() && !value.chars().any(char::is_control);
    plain.then(|| value.into())
}

fn known(oid: &ObjectIdentifier) -> Option<&'static str> {
    // Identifiers of some length are no longer ones that have names.
    let number = oid.to_string();
    ATTRIBUTES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue) {
    if let (Some(name), Some(value)) = (known(&attribute.oid), string(attribute)) {
        text.push_str(name);
        text.push('=');
        escape(text, &value);
        return;
    }
    // Writing to a string does not fail.
    let _ = write!(text, "{}=#", attribute.oid);
    for byte in attribute.value.to_der().unwrap_or_default() {
        let _ = write!(text, "{byte:02X}");
    }
}

/// The value as a string, if it is one of a kind that can be read for certain.
fn string(attribute: &AttributeTypeAndValue) -> Option<String> {
    let bytes = attribute.value.value();
    match attribute.value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        // T.61 is read as Latin-1 here and as something else there.
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::TeletexString => {
            bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).into_owned())
        }
        Tag::BmpString => {
            let (units, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = units.iter().copied().map(u16::from_be_bytes).collect();
            if rest.is_empty() { String::from_utf16(&units).ok() } else { None }
        }
        _ => None,
    }
}

/// RFC 4514 §2.4: whatever could be taken for the end of the value gets a backslash.
fn escape(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', character]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            _ if character.is_control() => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            _ => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use x509_cert::der::Decode;
    use x509_cert::der::asn1::Any;
    use x509_cert::name::{RdnSequence, RelativeDistinguishedName};

    use super::*;

    fn one(oid: &str, tag: Tag, value: &[u8]) -> Name {
        let attribute = AttributeTypeAndValue {
            oid: ObjectIdentifier::from_str(oid).unwrap(),
            value: Any::new(tag, value).unwrap(),
        };
        let part = RelativeDistinguishedName::try_from(vec![attribute]).unwrap();
        Name::hazmat_from_rdn_sequence(RdnSequence::from(vec![part]))
    }

    fn common(tag: Tag, value: &[u8]) -> Name {
        one("2.5.4.3", tag, value)
    }

    #[test]
    fn the_last_part_comes_first_and_parts_may_have_several_attributes() {
        let name = Name::from_str("CN=web+UID=7,OU=ops,O=Example\\, Inc.,C=SE").unwrap();
        let text = text(&name);
        assert!(
            text == "CN=web+UID=7,OU=ops,O=Example\\, Inc.,C=SE"
                || text == "UID=7+CN=web,OU=ops,O=Example\\, Inc.,C=SE",
            "{text}"
        );
        assert_eq!(common_name(&name).as_deref(), Some("web"));
        assert_eq!(super::text(&Name::default()), "");
    }

    #[test]
    fn nothing_in_a_value_ends_it() {
        for (value, expected) in [
            ("a,OU=ops", "a\\,OU=ops"),
            ("a+UID=1", "a\\+UID=1"),
            ("a\\", "a\\\\"),
            (" a ", "\\ a\\ "),
            (" ", "\\ "),
            ("#a#", "\\#a#"),
            ("<\"a\";>", "\\<\\\"a\\\"\\;\\>"),
            ("a\0b\r\n", "a\\00b\\0D\\0A"),
            ("\u{85}", "\\C2\\85"),
            ("Lučić", "Lučić"),
        ] {
            let name = common(Tag::Utf8String, value.as_bytes());
            assert_eq!(text(&name), format!("CN={expected}"));
        }
    }

    #[test]
    fn values_of_old_kinds_are_read_where_that_is_certain() {
        assert_eq!(text(&common(Tag::BmpString, &[0, b'a', 1, 0x0d])), "CN=ač");
        assert_eq!(text(&common(Tag::BmpString, &[0xd8, 0])), "2.5.4.3=#1E02D800");
        assert_eq!(text(&common(Tag::BmpString, &[0])), "2.5.4.3=#1E0100");
        assert_eq!(text(&common(Tag::TeletexString, b"a")), "CN=a");
        assert_eq!(text(&common(Tag::TeletexString, b"\xe4")), "2.5.4.3=#1401E4");
        assert_eq!(text(&common(Tag::OctetString, b"a")), "2.5.4.3=#040161");
        assert_eq!(
            text(&one("1.3.6.1.4.1.1466.0", Tag::Utf8String, b"a")),
            "1.3.6.1.4.1.1466.0=#0C0161"
        );
        let mail = one("1.2.840.113549.1.9.1", Tag::Ia5String, b"a@b.test");
        assert_eq!(text(&mail), "emailAddress=a@b.test");
    }

    #[test]
    fn a_common_name_with_control_characters_names_nobody() {
        for value in ["", " ", "root\0.test", "a\nb", "\u{9b}31m"] {
            assert_eq!(common_name(&common(Tag::Utf8String, value.as_bytes())), None, "{value:?}");
        }
        let raw = common(Tag::Utf8String, b"\xff");
        assert_eq!(common_name(&raw), None);
        assert_eq!(text(&raw), "2.5.4.3=#0C01FF");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            if let Ok(name) = Name::from_der(&bytes) {
                let text = text(&name);
                proptest::prop_assert!(!text.chars().any(char::is_control));
            }
        }
    }
}
