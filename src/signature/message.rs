//! The values of a request's components, and the signature base (RFC 9421 §2.5).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sfv::{Dictionary, Key, Parser};

use super::component::Component;

/// The scheme that a request was made under.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// A request as its components are taken from it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The scheme it was made under.
    pub scheme: Scheme,
    /// `Host`, or `:authority`; empty where there is none.
    pub authority: &'a str,
    /// Its target, in origin form or absolute.
    pub target: &'a Uri,
    /// Whether the target stood in the request line in absolute form (RFC 9112 §3.2.2).
    pub is_absolute: bool,
    /// Its fields.
    pub headers: &'a HeaderMap,
}

/// A request does not have a component, or not one that could be signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the request has no such component")]
pub struct Missing;

/// The percent-encode set of forms (RFC 9421 §2.2.8, by way of the URL standard).
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

impl Scheme {
    /// The scheme of a connection with or without TLS.
    #[must_use]
    pub const fn secured(is_tls: bool) -> Self {
        if is_tls { Self::Https } else { Self::Http }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn own_port(self) -> &'static str {
        match self {
            Self::Http => ":80",
            Self::Https => ":443",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Message<'_> {
    /// The signature base for components, each with its identifier, and parameters.
    ///
    /// # Errors
    ///
    /// A component is not there.
    pub(super) fn base<'c>(
        &self,
        components: impl Iterator<Item = (&'c str, &'c Component)>,
        params: &str,
    ) -> Result<String, Missing> {
        let mut base = String::with_capacity(256 + params.len());
        for (identifier, component) in components {
            base.push_str(identifier);
            base.push_str(": ");
            self.write(component, &mut base)?;
            base.push('\n');
        }
        base.push_str("\"@signature-params\": ");
        base.push_str(params);
        // A target may have bytes in it that belong escaped.
        if base.is_ascii() { Ok(base) } else { Err(Missing) }
    }

    /// Whether the request has this component.
    #[must_use]
    pub fn has(&self, component: &Component) -> bool {
        match component {
            Component::Field(name) | Component::Bytes(name) => self.headers.contains_key(name),
            _ => self.write(component, &mut String::new()).is_ok(),
        }
    }

    fn write(&self, component: &Component, out: &mut String) -> Result<(), Missing> {
        match component {
            Component::Method => out.push_str(self.method.as_str()),
            Component::Scheme => out.push_str(self.scheme.as_str()),
            Component::Authority => self.write_authority(out)?,
            Component::Path => out.push_str(path(self.target)),
            Component::Query => write_query(self.target, out),
            Component::TargetUri => {
                out.push_str(self.scheme.as_str());
                out.push_str("://");
                self.write_authority(out)?;
                self.write_origin_form(out);
            }
            Component::RequestTarget => {
                if self.is_absolute {
                    out.push_str(&self.target.to_string());
                } else {
                    self.write_origin_form(out);
                }
            }
            Component::QueryParam(name) => {
                out.push_str(&query_param(self.target.query().unwrap_or_default(), name)?);
            }
            Component::Field(name) => self.write_field(name, out)?,
            Component::Member(name, key) => out.push_str(&self.member(name, key)?),
            Component::Bytes(name) => self.write_bytes(name, out)?,
        }
        Ok(())
    }

    fn write_authority(&self, out: &mut String) -> Result<(), Missing> {
        if self.authority.is_empty() {
            return Err(Missing);
        }
        let host = self.authority.strip_suffix(self.scheme.own_port()).unwrap_or(self.authority);
        // A port may be empty (RFC 3986 §6.2.3).
        let host = host.strip_suffix(':').unwrap_or(host);
        out.extend(host.chars().map(|c| c.to_ascii_lowercase()));
        Ok(())
    }

    fn write_origin_form(&self, out: &mut String) {
        out.push_str(path(self.target));
        if self.target.query().is_some() {
            write_query(self.target, out);
        }
    }

    /// The lines of a field, as text.
    fn lines(&self, name: &HeaderName) -> impl Iterator<Item = Result<&str, Missing>> {
        let text = |line| std::str::from_utf8(HeaderValue::as_bytes(line)).ok();
        // A base is ASCII (RFC 9421 §2.5); other fields may be covered as bytes.
        let line = move |line| text(line).filter(|text| text.is_ascii()).ok_or(Missing);
        self.headers.get_all(name).iter().map(move |value| line(value).map(str::trim_ascii))
    }

    fn write_field(&self, name: &HeaderName, out: &mut String) -> Result<(), Missing> {
        // Crumbs are one cookie (RFC 9113 §8.2.3), whatever version they come in.
        let between = if *name == header::COOKIE { "; " } else { ", " };
        let mut lines = self.lines(name);
        out.push_str(lines.next().ok_or(Missing)??);
        for line in lines {
            out.push_str(between);
            out.push_str(line?);
        }
        Ok(())
    }

    fn member(&self, name: &HeaderName, key: &Key) -> Result<String, Missing> {
        let mut field = String::new();
        self.write_field(name, &mut field)?;
        let mut fields: Dictionary = Parser::new(&field).parse().map_err(|_| Missing)?;
        let entry = fields.swap_remove(key).ok_or(Missing)?;
        // What follows the key in a dictionary is what the value is by itself.
        let mut serializer = sfv::ListSerializer::new();
        serializer.members([&entry]);
        serializer.finish().ok_or(Missing)
    }

    fn write_bytes(&self, name: &HeaderName, out: &mut String) -> Result<(), Missing> {
        let mut lines = self.headers.get_all(name).iter().peekable();
        lines.peek().ok_or(Missing)?;
        for (index, line) in lines.enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            out.push(':');
            STANDARD.encode_string(line.as_bytes().trim_ascii(), out);
            out.push(':');
        }
        Ok(())
    }
}

/// RFC 9421 §2.2.6: an empty path is `/`.
fn path(target: &Uri) -> &str {
    match target.path() {
        "" => "/",
        path => path,
    }
}

/// RFC 9421 §2.2.7: no query is an empty one.
fn write_query(target: &Uri, out: &mut String) {
    out.push('?');
    out.push_str(target.query().unwrap_or_default());
}

/// RFC 9421 §2.2.8: a name that stands there twice must not be covered by itself.
fn query_param(query: &str, name: &str) -> Result<String, Missing> {
    let encode = |text: &str| utf8_percent_encode(text, FORM).to_string();
    let mut named = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| encode(key) == name);
    match (named.next(), named.next()) {
        (Some((_, value)), None) => Ok(encode(&value)),
        _ => Err(Missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a component of a request for `target`, sent to `Host: authority`.
    fn value(
        component: &str,
        (authority, target): (&str, &str),
        fields: &[(&'static str, &'static str)],
    ) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let target: Uri = target.parse().unwrap();
        let message = Message {
            method: &Method::POST,
            scheme: Scheme::Https,
            authority,
            target: &target,
            is_absolute: target.scheme().is_some(),
            headers: &headers,
        };
        let mut out = String::new();
        message.write(&component.parse().unwrap(), &mut out).ok().map(|()| out)
    }

    fn derived(component: &str, target: &str) -> String {
        value(component, ("www.example.com", target), &[]).unwrap()
    }

    #[test]
    fn derived_components_are_those_of_the_rfc() {
        let target = "/path?param=value&foo=bar&baz=bat%2Dman";
        assert_eq!(derived("@method", target), "POST");
        let whole = "https://www.example.com/path?param=value&foo=bar&baz=bat%2Dman";
        assert_eq!(derived("@target-uri", target), whole);
        assert_eq!(derived("@target-uri", whole), whole);
        assert_eq!(derived("@scheme", target), "https");
        assert_eq!(derived("@request-target", target), target);
        assert_eq!(derived("@request-target", whole), whole);
        assert_eq!(derived("@path", target), "/path");
        assert_eq!(derived("@query", target), "?param=value&foo=bar&baz=bat%2Dman");
        assert_eq!(derived("@query", "/path?queryString"), "?queryString");
        assert_eq!(derived("@query", "/path"), "?");
        assert_eq!(derived("@target-uri", "/path"), "https://www.example.com/path");
        assert_eq!(derived("@target-uri", "/path?"), "https://www.example.com/path?");
    }

    #[test]
    fn an_authority_is_lower_case_and_without_the_schemes_own_port() {
        for (authority, normal) in [
            ("Example.COM", "example.com"),
            ("example.com:443", "example.com"),
            ("example.com:", "example.com"),
            ("example.com:80", "example.com:80"),
            ("[2001:DB8::443]", "[2001:db8::443]"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
        ] {
            assert_eq!(value("@authority", (authority, "/"), &[]).unwrap(), normal);
        }
        assert_eq!(value("@authority", ("", "/"), &[]), None);
    }

    #[test]
    fn query_parameters_are_encoded_as_in_a_form() {
        let target = "/parameters?var=this%20is%20a%20big%0Amultiline%20value&\
                      bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something&qux=&two=1&two=1";
        let param = |name: &str| {
            let component = format!("\"@query-param\";name=\"{name}\"");
            value(&component, ("www.example.com", target), &[])
        };
        assert_eq!(param("var").unwrap(), "this%20is%20a%20big%0Amultiline%20value");
        assert_eq!(param("bar").unwrap(), "with%20plus%20whitespace");
        assert_eq!(param("fa%C3%A7ade%22%3A%20").unwrap(), "something");
        assert_eq!(param("qux").unwrap(), "");
        assert_eq!(param("two"), None, "it stands there twice");
        assert_eq!(param("none"), None);
    }

    #[test]
    fn the_lines_of_a_field_are_one_value() {
        let fields = [
            ("x-ows", "  Leading and trailing whitespace.\t"),
            ("cache-control", "max-age=60"),
            ("cache-control", "   must-revalidate"),
            ("x-empty", ""),
            ("example-dict", "a=1,    b=2;x=1;y=2,   c=(a   b   c), d"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
        ];
        let field = |component: &str| value(component, ("a.test", "/"), &fields);
        assert_eq!(field("x-ows").unwrap(), "Leading and trailing whitespace.");
        assert_eq!(field("cache-control").unwrap(), "max-age=60, must-revalidate");
        assert_eq!(field("x-empty").unwrap(), "");
        assert_eq!(field("x-missing"), None);
        assert_eq!(field("cookie").unwrap(), "a=b; c=d");
        assert_eq!(field("\"example-dict\";key=\"a\"").unwrap(), "1");
        assert_eq!(field("\"example-dict\";key=\"b\"").unwrap(), "2;x=1;y=2");
        assert_eq!(field("\"example-dict\";key=\"c\"").unwrap(), "(a b c)");
        assert_eq!(field("\"example-dict\";key=\"d\"").unwrap(), "?1");
        assert_eq!(field("\"example-dict\";key=\"e\""), None);
        assert_eq!(field("\"x-ows\";key=\"a\""), None);
    }

    #[test]
    fn a_field_as_bytes_keeps_its_lines_apart() {
        let fields = [("example-header", "value, with, lots"), ("example-header", "of, commas")];
        let component = "\"example-header\";bs";
        let expected = ":dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:";
        assert_eq!(value(component, ("a.test", "/"), &fields).unwrap(), expected);
        let fields = [("example-header", "value, with, lots, of, commas")];
        let expected = ":dmFsdWUsIHdpdGgsIGxvdHMsIG9mLCBjb21tYXM=:";
        assert_eq!(value(component, ("a.test", "/"), &fields).unwrap(), expected);
        assert_eq!(value(component, ("a.test", "/"), &[]), None);
    }

    #[test]
    fn what_is_not_ascii_is_covered_as_bytes_only() {
        let mut headers = HeaderMap::new();
        headers.insert("x-name", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let target = Uri::from_static("/");
        let message = Message {
            method: &Method::GET,
            scheme: Scheme::Http,
            authority: "a.test",
            target: &target,
            is_absolute: false,
            headers: &headers,
        };
        let name = HeaderName::from_static("x-name");
        let write = |component| message.write(&component, &mut String::new());
        assert_eq!(write(Component::Field(name.clone())), Err(Missing));
        assert_eq!(write(Component::Bytes(name)), Ok(()));
    }
}
