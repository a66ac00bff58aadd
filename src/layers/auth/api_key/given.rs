//! Where a request has its key.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

use super::ApiKeySettings;
use crate::context::parameter_name;
use crate::layers::auth::authenticate::Asked;

/// What a request shows.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Given<'a> {
    Nothing,
    /// More than one key. Even if they are the same: two who read the request may read
    /// two of them.
    Several,
    Key(Cow<'a, [u8]>, Place),
}

/// Where a key was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Field,
    Bearer,
    Query,
}

/// The key that a request has.
pub(super) fn given<'a>(settings: &ApiKeySettings, request: &Asked<'a>) -> Given<'a> {
    let mut given = Given::Nothing;
    for line in request.headers.get_all(&settings.header) {
        given = given.and(line.as_bytes().into(), Place::Field);
    }
    if settings.bearer {
        for token in bearers(request.headers) {
            given = given.and(token.into(), Place::Bearer);
        }
    }
    if let Some(parameter) = &settings.query {
        for pair in request.uri.query().into_iter().flat_map(|query| query.split('&')) {
            if parameter_name(pair) == **parameter {
                given = given.and(value(pair), Place::Query);
            }
        }
    }
    given
}

/// What stands behind `Bearer` in `Authorization`.
pub(super) fn bearers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(AUTHORIZATION).iter().filter_map(|line| bearer(line.as_bytes()))
}

impl<'a> Given<'a> {
    fn and(self, key: Cow<'a, [u8]>, place: Place) -> Self {
        match self {
            Self::Nothing => Self::Key(key, place),
            Self::Several | Self::Key(..) => Self::Several,
        }
    }
}

/// The token of `Bearer` credentials (RFC 6750 §2.1).
fn bearer(line: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = line.split_at_checked(6)?;
    let is_it = scheme.eq_ignore_ascii_case(b"bearer") && rest.first() == Some(&b' ');
    is_it.then(|| rest.trim_ascii())
}

/// The value of a parameter, as whoever reads a form would have it.
fn value(pair: &str) -> Cow<'_, [u8]> {
    let value = pair.split_once('=').map_or("", |(_, value)| value);
    if !value.contains(['%', '+']) {
        return value.as_bytes().into();
    }
    let spaced = value.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, Request};

    fn found(uri: &str, fields: &[(&str, &str)]) -> Result<(String, Place), &'static str> {
        let mut settings = ApiKeySettings::new([]);
        settings.header = HeaderName::from_static("x-key");
        (settings.bearer, settings.query) = (true, Some("key".into()));
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        match given(&settings, &Asked::of(&parts, None)) {
            Given::Nothing => Err("nothing"),
            Given::Several => Err("several"),
            Given::Key(key, place) => Ok((String::from_utf8(key.into_owned()).unwrap(), place)),
        }
    }

    #[test]
    fn a_key_is_found_where_it_may_be_and_nowhere_else() {
        let is = |key: &str, place| Ok((key.to_owned(), place));
        assert_eq!(found("/", &[]), Err("nothing"));
        assert_eq!(found("/", &[("x-key", "k")]), is("k", Place::Field));
        assert_eq!(found("/", &[("x-key", "")]), is("", Place::Field));
        assert_eq!(found("/", &[("authorization", "beaRer  k ")]), is("k", Place::Bearer));
        assert_eq!(found("/", &[("authorization", "Basic k")]), Err("nothing"));
        assert_eq!(found("/", &[("authorization", "Bearerk")]), Err("nothing"));
        assert_eq!(found("/?a=1&key=k&b", &[]), is("k", Place::Query));
        assert_eq!(found("/?%6bey=%6b%2B+", &[]), is("k+ ", Place::Query));
        assert_eq!(found("/?key", &[]), is("", Place::Query));
        assert_eq!(found("/?Key=k&keys=k&xkey=k", &[]), Err("nothing"));
        // Another scheme's credentials are none of ours.
        let both = [("authorization", "Basic abc"), ("x-key", "k")];
        assert_eq!(found("/", &both), is("k", Place::Field));
    }

    #[test]
    fn two_keys_are_one_too_many_wherever_they_are() {
        for (uri, fields) in [
            ("/", &[("x-key", "k"), ("x-key", "k")][..]),
            ("/", &[("x-key", "k"), ("authorization", "Bearer k")]),
            ("/", &[("authorization", "Bearer k"), ("authorization", "Bearer l")]),
            ("/?key=k", &[("x-key", "k")]),
            ("/?key=k&k%65y=l", &[]),
        ] {
            assert_eq!(found(uri, fields), Err("several"), "{uri} {fields:?}");
        }
    }
}
