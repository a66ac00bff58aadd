//! Signs requests on their way to an origin (RFC 9421 §3.1).

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, DictSerializer, InnerList, Item, Key, KeyRef, StringRef};

use super::component::{Component, identifier};
use super::input::{dictionary, serialized};
use super::message::{Message, Missing};
use super::{SIGNATURE, SIGNATURE_INPUT, SigningKey};

/// How requests are signed.
#[derive(Clone, Debug, PartialEq)]
pub struct SignSettings {
    /// By what.
    pub key: SigningKey,
    /// What the key is called (`keyid`): printable ASCII.
    pub key_id: String,
    /// What is covered. A field, or a parameter of the query, that a request does not
    /// have is left out. Default `@method`, `@authority`, `@path`, `@query`, `content-type` and `content-digest`.
    pub components: Vec<Component>,
    /// How long a signature is valid (`expires`). Default 5 minutes; `None` leaves it to
    /// whoever verifies.
    pub expires: Option<Duration>,
    /// What the signature is called among others: a key of RFC 9651 §3.1.2. Default
    /// `tollgate`.
    pub label: String,
    /// What application it is for (`tag`): printable ASCII. Default none.
    pub tag: Option<String>,
    /// Whether each signature has a random `nonce`, so that no two are alike. Default
    /// true.
    pub nonce: bool,
    /// Gathers bodies of up to so many bytes and adds their `Content-Digest`; longer
    /// ones are refused. Default none: a `Content-Digest` is covered if the client sends
    /// one.
    pub digest_body: Option<usize>,
}

/// Why a request was not signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignError {
    /// It lacks a component that is not a field.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The settings have what cannot be written, or the system has no random numbers.
    #[error("the signature cannot be made")]
    Failed,
}

/// Signs requests.
#[derive(Clone, Debug)]
pub struct Signer<'a>(&'a SignSettings);

impl SignSettings {
    /// Signs by `key`, which is called `key_id`, all else by default.
    #[must_use]
    pub fn new(key: SigningKey, key_id: impl Into<String>) -> Self {
        let field = |name| Component::Field(HeaderName::from_static(name));
        Self {
            key,
            key_id: key_id.into(),
            components: vec![
                Component::Method,
                Component::Authority,
                Component::Path,
                Component::Query,
                field("content-type"),
                field("content-digest"),
            ],
            expires: Some(Duration::from_secs(300)),
            label: "tollgate".to_owned(),
            tag: None,
            nonce: true,
            digest_body: None,
        }
    }

    /// Whether a label can stand in the fields.
    #[must_use]
    pub fn is_label(label: &str) -> bool {
        KeyRef::from_str(label).is_ok()
    }

    /// Whether a text can stand in a parameter.
    #[must_use]
    pub fn is_text(text: &str) -> bool {
        StringRef::from_str(text).is_ok()
    }
}

impl<'a> Signer<'a> {
    /// Signs as these settings say.
    #[must_use]
    pub fn new(settings: &'a SignSettings) -> Self {
        Self(settings)
    }

    /// The values of `Signature-Input` and `Signature` for a message at that time, with
    /// whatever other signatures it has: one of the same label is not kept, nor are any
    /// that cannot be read, which would spoil ours.
    ///
    /// # Errors
    ///
    /// The message lacks what is to be covered, or there are no random numbers.
    pub fn sign(
        &self,
        message: &Message<'_>,
        now: SystemTime,
    ) -> Result<[(HeaderName, HeaderValue); 2], SignError> {
        let settings = self.0;
        let covered: Vec<(Item, &Component)> = settings
            .components
            .iter()
            .filter(|component| !component.is_optional() || message.has(component))
            .map(|component| (component.item(), component))
            .collect();
        let input = self.input(covered.iter().map(|(item, _)| item.clone()).collect(), now)?;
        let params = serialized(&input).ok_or(SignError::Failed)?;
        let identifiers: Vec<String> = covered.iter().map(|(item, _)| identifier(item)).collect();
        let covered = covered.iter().map(|(_, component)| *component);
        let base = message.base(identifiers.iter().map(|text| &**text).zip(covered), &params)?;
        let signature = settings.key.sign(base.as_bytes()).ok_or(SignError::Failed)?;
        let signature = format!(":{}:", STANDARD.encode(signature));
        let field = |name, own| self.beside_others(message.headers, name, own);
        Ok([field(SIGNATURE_INPUT, &params)?, field(SIGNATURE, &signature)?])
    }

    fn input(&self, items: Vec<Item>, now: SystemTime) -> Result<InnerList, SignError> {
        let settings = self.0;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| SignError::Failed)?;
        let seconds = |time: Duration| {
            let seconds = i64::try_from(time.as_secs()).map_err(|_| SignError::Failed)?;
            BareItem::try_from(seconds).map_err(|_| SignError::Failed)
        };
        let text = |text: &str| {
            let text = StringRef::from_str(text).map_err(|_| SignError::Failed)?;
            Ok::<_, SignError>(BareItem::String(text.to_owned()))
        };
        let mut input = InnerList::new(items);
        let mut param = |name, value| {
            input.params.insert(KeyRef::constant(name).to_owned(), value);
        };
        param("created", seconds(since)?);
        if let Some(expires) = settings.expires {
            param("expires", seconds(since + expires)?);
        }
        param("keyid", text(&settings.key_id)?);
        if settings.nonce {
            let mut nonce = [0; 16];
            rand::fill(&mut nonce).map_err(|_| SignError::Failed)?;
            param("nonce", text(&URL_SAFE_NO_PAD.encode(nonce))?);
        }
        if let Some(tag) = &settings.tag {
            param("tag", text(tag)?);
        }
        Ok(input)
    }

    fn beside_others(
        &self,
        headers: &HeaderMap,
        name: HeaderName,
        own: &str,
    ) -> Result<(HeaderName, HeaderValue), SignError> {
        let mut field = String::new();
        if headers.contains_key(&name)
            && let Ok(mut others) = dictionary(headers, &name)
        {
            others.retain(|label: &Key, _| label.as_str() != self.0.label);
            let mut serializer = DictSerializer::new();
            serializer.members(&others);
            if let Some(others) = serializer.finish() {
                field.push_str(&others);
                field.push_str(", ");
            }
        }
        field.push_str(&self.0.label);
        field.push('=');
        field.push_str(own);
        Ok((name, HeaderValue::try_from(field).map_err(|_| SignError::Failed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{Scheme, VerifyingKey, read};
    use http::{Method, Uri};

    const SECRET: [u8; 32] = [7; 32];

    fn settings() -> SignSettings {
        SignSettings::new(SigningKey::secret(&SECRET).unwrap(), "edge")
    }

    fn signed(settings: &SignSettings, headers: &mut HeaderMap) -> Result<(), SignError> {
        let target = Uri::from_static("/orders?id=7");
        let message = Message {
            method: &Method::PUT,
            scheme: Scheme::Http,
            authority: "origin.test:8080",
            target: &target,
            is_absolute: false,
            headers,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let fields = Signer::new(settings).sign(&message, now)?;
        headers.extend(fields.map(|(name, value)| (Some(name), value)));
        Ok(())
    }

    #[test]
    fn what_is_signed_says_what_it_covers_and_how_long_it_holds() {
        let mut settings = settings();
        settings.nonce = false;
        settings.tag = Some("orders".to_owned());
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        signed(&settings, &mut headers).unwrap();
        let input = "tollgate=(\"@method\" \"@authority\" \"@path\" \"@query\" \
                     \"content-type\");created=1700000000;expires=1700000300;keyid=\"edge\";\
                     tag=\"orders\"";
        assert_eq!(headers[SIGNATURE_INPUT], input);
        let base = "\"@method\": PUT\n\"@authority\": origin.test:8080\n\"@path\": /orders\n\
                    \"@query\": ?id=7\n\"content-type\": text/plain\n\"@signature-params\": "
            .to_owned()
            + input.strip_prefix("tollgate=").unwrap();
        let received = read(&headers).unwrap().remove(0);
        let key = VerifyingKey::secret(&SECRET).unwrap();
        assert!(key.verifies(base.as_bytes(), received.signature()));
    }

    #[test]
    fn no_two_signatures_are_alike() {
        let nonces: Vec<Option<String>> = (0..2)
            .map(|_| {
                let mut headers = HeaderMap::new();
                signed(&settings(), &mut headers).unwrap();
                read(&headers).unwrap().remove(0).nonce
            })
            .collect();
        assert!(nonces[0].is_some());
        assert_ne!(nonces[0], nonces[1]);
    }

    #[test]
    fn a_label_of_the_clients_that_is_ours_is_dropped_and_others_stay() {
        let mut headers = HeaderMap::new();
        headers.append(SIGNATURE_INPUT, HeaderValue::from_static("tollgate=();keyid=\"edge\""));
        headers.append(SIGNATURE_INPUT, HeaderValue::from_static("own=(\"date\");keyid=\"c\""));
        headers.append(SIGNATURE, HeaderValue::from_static("own=:AA==:, tollgate=:AA==:"));
        signed(&settings(), &mut headers).unwrap();
        signed(&settings(), &mut headers).unwrap();
        let input = headers[SIGNATURE_INPUT].to_str().unwrap();
        assert!(input.starts_with("own=(\"date\");keyid=\"c\", tollgate=(\"@method\""), "{input}");
        assert_eq!(input.matches("tollgate=").count(), 1, "{input}");
        assert_eq!(headers.get_all(SIGNATURE_INPUT).iter().count(), 1);
        let signature = headers[SIGNATURE].to_str().unwrap();
        assert!(signature.starts_with("own=:AA==:, tollgate=:"), "{signature}");
        assert_eq!(signature.matches("tollgate=").count(), 1, "{signature}");
    }

    #[test]
    fn fields_that_cannot_be_read_do_not_spoil_ours() {
        let mut headers = HeaderMap::new();
        headers.append(SIGNATURE_INPUT, HeaderValue::from_static("=(("));
        headers.append(SIGNATURE, HeaderValue::from_static("keyId=\"x\",algorithm=\"hs2019\""));
        signed(&settings(), &mut headers).unwrap();
        assert!(headers[SIGNATURE_INPUT].as_bytes().starts_with(b"tollgate=("));
        assert_eq!(read(&headers).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_no_panic() {
        let mut settings = settings();
        settings.key_id = "é".to_owned();
        assert_eq!(signed(&settings, &mut HeaderMap::new()), Err(SignError::Failed));
        assert!(!SignSettings::is_text("é") && !SignSettings::is_label("No Label"));
        assert!(SignSettings::is_text("a b") && SignSettings::is_label("sig-1"));
    }
}
