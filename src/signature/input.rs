//! Signatures as they come in: `Signature-Input` and `Signature` (RFC 9421 §4).

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, InnerList, ListEntry, ListSerializer, Parser};

use super::component::{Component, identifier};
use super::message::{Message, Missing};
use super::{SIGNATURE, SIGNATURE_INPUT};

/// The longest field, in bytes, all of its lines together.
const MAX_FIELD: usize = 8 * 1024;

/// The most signatures of one request.
const MAX_LABELS: usize = 8;

/// The most components that one covers.
const MAX_COMPONENTS: usize = 32;

/// A signature that came with a request. Nothing says yet that it is right.
#[derive(Clone, Debug)]
pub struct Received {
    covered: Vec<(String, Component)>,
    params: String,
    signature: Vec<u8>,
    /// When it was made, in seconds since 1970, as its signer says.
    pub created: Option<i64>,
    /// When it ends to be valid, in seconds since 1970.
    pub expires: Option<i64>,
    /// Which key it is by.
    pub key_id: Option<String>,
    /// Which algorithm it claims to be of.
    pub algorithm: Option<String>,
    /// What its signer never says twice.
    pub nonce: Option<String>,
    /// What application it is for.
    pub tag: Option<String>,
}

/// The fields are not what RFC 9421 §4 says, too long, or of components that are not
/// known here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the signatures cannot be read")]
pub struct Malformed;

/// The signatures of a request, in the order of `Signature-Input`; none if it has none.
///
/// # Errors
///
/// It has some, and none of them can be read.
pub fn read(headers: &HeaderMap) -> Result<Vec<Received>, Malformed> {
    if !headers.contains_key(SIGNATURE_INPUT) {
        return Ok(Vec::new());
    }
    let inputs = dictionary(headers, &SIGNATURE_INPUT)?;
    let signatures = dictionary(headers, &SIGNATURE)?;
    if inputs.len() > MAX_LABELS || signatures.len() > MAX_LABELS {
        return Err(Malformed);
    }
    let one = |(label, input): (&sfv::Key, &ListEntry)| {
        let ListEntry::InnerList(input) = input else { return None };
        let Some(ListEntry::Item(signature)) = signatures.get(label) else { return None };
        Received::of(input, signature.bare_item.as_byte_sequence()?)
    };
    let received: Vec<Received> = inputs.iter().filter_map(one).collect();
    if received.is_empty() { Err(Malformed) } else { Ok(received) }
}

/// A field that is a dictionary, its lines joined (RFC 9651 §4.2).
pub(super) fn dictionary(headers: &HeaderMap, name: &HeaderName) -> Result<Dictionary, Malformed> {
    let mut field = Vec::new();
    for line in headers.get_all(name) {
        if !field.is_empty() {
            field.extend_from_slice(b", ");
        }
        field.extend_from_slice(line.as_bytes());
        if field.len() > MAX_FIELD {
            return Err(Malformed);
        }
    }
    Parser::new(&field).parse().map_err(|_| Malformed)
}

/// An inner list by itself, as `@signature-params` has it (RFC 9421 §2.3).
pub(super) fn serialized(list: &InnerList) -> Option<String> {
    let mut serializer = ListSerializer::new();
    serializer.members([&ListEntry::InnerList(list.clone())]);
    serializer.finish()
}

impl Received {
    fn of(input: &InnerList, signature: &[u8]) -> Option<Self> {
        if input.items.len() > MAX_COMPONENTS {
            return None;
        }
        let mut covered: Vec<(String, Component)> = Vec::with_capacity(input.items.len());
        for item in &input.items {
            let component = Component::of(item).ok()?;
            // RFC 9421 §2: each of them once.
            if covered.iter().any(|(_, other)| *other == component) {
                return None;
            }
            covered.push((identifier(item), component));
        }
        let mut received = Self {
            covered,
            params: serialized(input)?,
            signature: signature.to_vec(),
            created: None,
            expires: None,
            key_id: None,
            algorithm: None,
            nonce: None,
            tag: None,
        };
        for (name, value) in &input.params {
            let (number, text) = match value {
                BareItem::Integer(number) => (Some(i64::from(*number)), None),
                BareItem::String(text) => (None, Some(text.as_str().to_owned())),
                _ => (None, None),
            };
            let (numbers, texts) = match name.as_str() {
                "created" => (Some(&mut received.created), None),
                "expires" => (Some(&mut received.expires), None),
                "keyid" => (None, Some(&mut received.key_id)),
                "alg" => (None, Some(&mut received.algorithm)),
                "nonce" => (None, Some(&mut received.nonce)),
                "tag" => (None, Some(&mut received.tag)),
                // What it means is for others to know; it is signed like the rest.
                _ => continue,
            };
            match (numbers, texts) {
                (Some(place), _) => *place = Some(number?),
                (_, Some(place)) => *place = Some(text?),
                _ => {}
            }
        }
        Some(received)
    }

    /// Whether it covers this component, or what that is a part of.
    #[must_use]
    pub fn covers(&self, component: &Component) -> bool {
        self.covered.iter().any(|(_, covered)| covered.covers(component))
    }

    /// What it covers, as it stands in it.
    pub fn covered(&self) -> impl Iterator<Item = &Component> {
        self.covered.iter().map(|(_, covered)| covered)
    }

    /// What it is a signature of, if it is right.
    ///
    /// # Errors
    ///
    /// The message does not have what it covers.
    pub fn base(&self, message: &Message<'_>) -> Result<String, Missing> {
        let covered = self.covered.iter().map(|(identifier, component)| (&**identifier, component));
        message.base(covered, &self.params)
    }

    /// The signature itself.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{Scheme, digest};
    use http::{HeaderValue, Method, Uri};
    use proptest::prelude::*;

    fn headers(input: &[&str], signature: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, lines) in [(SIGNATURE_INPUT, input), (SIGNATURE, signature)] {
            for line in lines {
                headers.append(&name, HeaderValue::from_str(line).unwrap());
            }
        }
        headers
    }

    fn one(input: &str) -> Result<Received, Malformed> {
        read(&headers(&[&format!("a={input}")], &["a=:AA==:"])).map(|mut all| all.remove(0))
    }

    #[test]
    fn a_signature_has_its_components_and_parameters() {
        let received = one("(\"@method\"  \"x-a\";key=\"b\" );created=1;expires=2;keyid=\"k\";\
                            alg=\"ed25519\";nonce=\"n\";tag=\"t\";other=?0")
        .unwrap();
        assert_eq!((received.created, received.expires), (Some(1), Some(2)));
        assert_eq!(received.key_id.as_deref(), Some("k"));
        assert_eq!(received.algorithm.as_deref(), Some("ed25519"));
        assert_eq!(received.nonce.as_deref(), Some("n"));
        assert_eq!(received.tag.as_deref(), Some("t"));
        assert_eq!(received.signature(), [0]);
        assert!(received.covers(&Component::Method));
        assert!(!received.covers(&Component::Path));
        // Whatever white space it came with, it was signed without.
        let params = "(\"@method\" \"x-a\";key=\"b\");created=1;expires=2;keyid=\"k\";\
                      alg=\"ed25519\";nonce=\"n\";tag=\"t\";other=?0";
        assert_eq!(received.params, params);
    }

    #[test]
    fn what_cannot_be_read_is_no_signature() {
        for input in [
            "1",
            "\"@method\"",
            "(\"@method\" \"@method\")",
            "(\"x\" \"x\")",
            "(\"@status\")",
            "(\"X-A\")",
            "(17)",
            "();created=\"1\"",
            "();created=1.5",
            "();keyid=k",
            "(",
        ] {
            assert!(one(input).is_err(), "{input}");
        }
        assert!(one("()").is_ok());
        let many = format!("({})", "\"a\" ".repeat(40));
        assert!(one(&many).is_err());
    }

    #[test]
    fn labels_that_cannot_be_read_do_not_hide_one_that_can() {
        let input = ["other=(\"@status\"), lonely=()", "a=();keyid=\"k\""];
        let read = read(&headers(&input, &["other=:AA==:", "a=:AQ==:, more=:AA==:"])).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].key_id.as_deref(), Some("k"));
        assert_eq!(read[0].signature(), [1]);
    }

    #[test]
    fn there_are_bounds() {
        let label = |n: usize| format!("a{n}=()");
        let nine: Vec<String> = (0..9).map(label).collect();
        assert!(read(&headers(&[&nine.join(", ")], &["a0=:AA==:"])).is_err());
        let long = format!("a=();x=\"{}\"", "y".repeat(MAX_FIELD));
        assert!(read(&headers(&[&long], &["a=:AA==:"])).is_err());
        assert!(read(&headers(&["a=()"], &[])).is_err());
        assert!(read(&headers(&["a=()"], &["a=\"text\""])).is_err());
        assert!(read(&headers(&[], &["a=:AA==:"])).unwrap().is_empty());
    }

    const STRANGE: &str = "[a-c@=;,:()\"?%A-C0-9 .*-]{0,80}";

    proptest! {
        #[test]
        fn nothing_that_a_stranger_writes_makes_it_panic(
            input in STRANGE,
            signature in STRANGE,
            content in STRANGE,
        ) {
            let covers = format!("a=(\"@method\" \"content-digest\";bs);k={input}");
            let mut headers = headers(&[&covers, &input], &["a=:AA==:", &signature]);
            headers.insert("content-digest", HeaderValue::from_str(&content).unwrap());
            let _is_of = digest::is_of(&headers, b"");
            let message = Message {
                method: &Method::GET,
                scheme: Scheme::Https,
                authority: "a.test",
                target: &Uri::from_static("/a?b=c&b=d"),
                is_absolute: false,
                headers: &headers,
            };
            for received in read(&headers).unwrap_or_default() {
                let base = received.base(&message).unwrap_or_default();
                prop_assert!(base.is_ascii() && base.matches("@signature-params").count() < 2);
            }
        }
    }
}
