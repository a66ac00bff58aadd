//! What of a message a signature can cover (RFC 9421 §2).

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use sfv::{BareItem, Item, ItemSerializer, Key, KeyRef, Parser, StringRef};

/// A component of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Component {
    /// `@method` (RFC 9421 §2.2.1)
    Method,
    /// `@target-uri` (RFC 9421 §2.2.2): scheme, authority, path and query in one.
    TargetUri,
    /// `@authority` (RFC 9421 §2.2.3): the host in lower case, with its port unless that
    /// is the scheme's own.
    Authority,
    /// `@scheme` (RFC 9421 §2.2.4)
    Scheme,
    /// `@request-target` (RFC 9421 §2.2.5)
    RequestTarget,
    /// `@path` (RFC 9421 §2.2.6)
    Path,
    /// `@query` (RFC 9421 §2.2.7), with its `?`.
    Query,
    /// `@query-param` (RFC 9421 §2.2.8): the one parameter of this name, which is
    /// encoded as in a form.
    QueryParam(String),
    /// A field (RFC 9421 §2.1), its lines joined.
    Field(HeaderName),
    /// A member of a field that is a dictionary (RFC 9421 §2.1.2).
    Member(HeaderName, Key),
    /// A field line by line, each as bytes (RFC 9421 §2.1.3).
    Bytes(HeaderName),
}

/// A component that is none, or none that is known here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no such component of a request is known here")]
pub struct Unsupported;

impl Component {
    /// Reads a component identifier (RFC 9421 §2).
    ///
    /// # Errors
    ///
    /// It is none of a request. `sf`, `req` and `tr` are not supported, nor is a field
    /// whose name is not in lower case.
    pub(super) fn of(item: &Item) -> Result<Self, Unsupported> {
        let name = item.bare_item.as_string().ok_or(Unsupported)?.as_str();
        let mut params = item.params.iter();
        let (param, more) = (params.next(), params.next());
        if more.is_some() {
            return Err(Unsupported);
        }
        let param = param.map(|(key, value)| (key.as_str(), value));
        if name == "@query-param" {
            let Some(("name", BareItem::String(name))) = param else { return Err(Unsupported) };
            return Ok(Self::QueryParam(name.as_str().to_owned()));
        }
        if name.starts_with('@') {
            return if param.is_none() { Self::derived(name) } else { Err(Unsupported) };
        }
        let lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        let field = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| lower);
        let field = field.ok_or(Unsupported)?;
        match param {
            None => Ok(Self::Field(field)),
            Some(("bs", BareItem::Boolean(true))) => Ok(Self::Bytes(field)),
            Some(("key", BareItem::String(key))) => {
                let key = KeyRef::from_str(key.as_str()).map_err(|_| Unsupported)?;
                Ok(Self::Member(field, key.to_owned()))
            }
            Some(_) => Err(Unsupported),
        }
    }

    fn derived(name: &str) -> Result<Self, Unsupported> {
        Ok(match name {
            "@method" => Self::Method,
            "@target-uri" => Self::TargetUri,
            "@authority" => Self::Authority,
            "@scheme" => Self::Scheme,
            "@request-target" => Self::RequestTarget,
            "@path" => Self::Path,
            "@query" => Self::Query,
            _ => return Err(Unsupported),
        })
    }

    /// Whether a signature that covers this covers `other` as well.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let in_target = matches!(
            other,
            Self::Authority | Self::Scheme | Self::Path | Self::Query | Self::QueryParam(_)
        );
        match (self, other) {
            (Self::TargetUri, _) if in_target => true,
            (Self::Query, Self::QueryParam(_))
            | (Self::RequestTarget, Self::Path | Self::Query | Self::QueryParam(_)) => true,
            // Lines that are joined could have been other lines: not the other way around.
            (Self::Bytes(all), Self::Field(one) | Self::Member(one, _))
            | (Self::Field(all), Self::Member(one, _)) => all == one,
            _ => self == other,
        }
    }

    /// The field that it is of, if it is of one.
    #[must_use]
    pub fn field(&self) -> Option<&HeaderName> {
        match self {
            Self::Field(name) | Self::Member(name, _) | Self::Bytes(name) => Some(name),
            _ => None,
        }
    }

    /// Whether there are requests without it.
    #[must_use]
    pub(super) fn is_optional(&self) -> bool {
        self.field().is_some() || matches!(self, Self::QueryParam(_))
    }

    fn name(&self) -> &str {
        match self {
            Self::Method => "@method",
            Self::TargetUri => "@target-uri",
            Self::Authority => "@authority",
            Self::Scheme => "@scheme",
            Self::RequestTarget => "@request-target",
            Self::Path => "@path",
            Self::Query => "@query",
            Self::QueryParam(_) => "@query-param",
            Self::Field(name) | Self::Member(name, _) | Self::Bytes(name) => name.as_str(),
        }
    }

    /// Its identifier (RFC 9421 §2.5), such as `"@query-param";name="id"`.
    pub(super) fn item(&self) -> Item {
        // Neither a field's name nor a derived component's has what a string may not.
        let string = |text: &str| StringRef::from_str(text).unwrap_or_default().to_owned();
        let mut item = Item::new(string(self.name()));
        let param = match self {
            Self::QueryParam(name) => Some(("name", BareItem::String(string(name)))),
            Self::Member(_, key) => Some(("key", BareItem::String(string(key.as_str())))),
            Self::Bytes(_) => Some(("bs", BareItem::Boolean(true))),
            _ => None,
        };
        if let Some((key, value)) = param {
            item.params.insert(KeyRef::constant(key).to_owned(), value);
        }
        item
    }
}

/// An identifier as it stands in a signature base.
pub(super) fn identifier(item: &Item) -> String {
    ItemSerializer::new().bare_item(&item.bare_item).parameters(&item.params).finish()
}

impl FromStr for Component {
    type Err = Unsupported;

    /// Reads `@method` or `content-type` as well as `"@query-param";name="id"`.
    fn from_str(text: &str) -> Result<Self, Unsupported> {
        if text.starts_with('"') {
            let item: Item = Parser::new(text).parse().map_err(|_| Unsupported)?;
            return Self::of(&item);
        }
        let text = StringRef::from_str(text).map_err(|_| Unsupported)?;
        Self::of(&Item::new(text.to_owned()))
    }
}

impl fmt::Display for Component {
    /// As [`Component::from_str`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueryParam(_) | Self::Member(..) | Self::Bytes(_) => {
                f.write_str(&identifier(&self.item()))
            }
            _ => f.write_str(self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_as_they_are_written() {
        for text in [
            "@method",
            "@target-uri",
            "@query",
            "content-type",
            "\"@query-param\";name=\"Pet\"",
            "\"content-digest\";key=\"sha-256\"",
            "\"x-any\";bs",
        ] {
            assert_eq!(text.parse::<Component>().unwrap().to_string(), text);
        }
        let quoted: Component = "\"@method\"".parse().unwrap();
        assert_eq!(quoted, Component::Method);
    }

    #[test]
    fn what_is_not_known_is_not_guessed_at() {
        for text in [
            "",
            "@status",
            "@signature-params",
            "@Method",
            "Content-Type",
            "a b",
            "é",
            "\"@method\";req",
            "\"@query-param\"",
            "\"@query-param\";name=token",
            "\"x-any\";sf",
            "\"x-any\";tr",
            "\"x-any\";bs=?0",
            "\"x-any\";bs;key=\"a\"",
            "\"x-any\";key=\"A B\"",
            "\"x-any\", \"x-other\"",
        ] {
            assert_eq!(text.parse::<Component>(), Err(Unsupported), "{text}");
        }
    }

    #[test]
    fn what_is_part_of_what_is_covered_is_covered() {
        let covers = |one: &str, other: &str| {
            one.parse::<Component>().unwrap().covers(&other.parse().unwrap())
        };
        assert!(covers("@target-uri", "@authority"));
        assert!(covers("@target-uri", "@query"));
        assert!(covers("@query", "\"@query-param\";name=\"a\""));
        assert!(covers("\"x\";bs", "x"));
        assert!(covers("x", "\"x\";key=\"a\""));
        assert!(!covers("x", "\"x\";bs"));
        assert!(!covers("\"x\";key=\"a\"", "x"));
        assert!(!covers("@path", "@query"));
        assert!(!covers("\"@query-param\";name=\"a\"", "@query"));
        assert!(!covers("@request-target", "@authority"));
        assert!(!covers("@target-uri", "@method"));
    }
}
