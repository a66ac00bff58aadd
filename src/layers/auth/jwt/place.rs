//! Where a request carries its token.

use http::{HeaderMap, HeaderName, header};

use super::TokenPlace;
use crate::layers::auth::authenticate::Changes;
use crate::layers::auth::changes::strip_cookies;
use crate::layers::auth::cookies;
use crate::layers::twins::remove_twins;

impl TokenPlace {
    /// The token of a request, if there is one.
    ///
    /// # Errors
    ///
    /// There is more than one, or it is no text: one word for the log.
    pub(super) fn find<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>, &'static str> {
        match self {
            Self::Bearer => {
                let Some(value) = only(headers, &header::AUTHORIZATION)? else { return Ok(None) };
                Ok(bearer(value))
            }
            Self::Header(name) => {
                let Some(value) = only(headers, name)? else { return Ok(None) };
                Ok(Some(bearer(value).unwrap_or(value)))
            }
            Self::Cookie(name) => cookies::get(headers, name).map_err(|_| "jwt_twice"),
        }
    }

    /// The field that it stands in.
    pub(super) fn field(&self) -> HeaderName {
        match self {
            Self::Bearer => header::AUTHORIZATION,
            Self::Header(name) => name.clone(),
            Self::Cookie(_) => header::COOKIE,
        }
    }

    /// What takes the token out of a request that it has let in.
    pub(super) fn stripped(&self) -> Changes {
        match self {
            Self::Bearer => Changes { remove: vec![header::AUTHORIZATION], ..Changes::default() },
            Self::Header(name) => Changes { remove: vec![name.clone()], ..Changes::default() },
            Self::Cookie(name) => {
                Changes { strip_cookies: vec![(&**name).into()], ..Changes::default() }
            }
        }
    }

    /// Takes a token out of a request that it has not let in.
    pub(super) fn conceal(&self, headers: &mut HeaderMap) {
        match self {
            Self::Bearer => {
                if self.find(headers) != Ok(None) {
                    headers.remove(header::AUTHORIZATION);
                }
            }
            Self::Header(name) => remove_twins(headers, name),
            Self::Cookie(name) => strip_cookies(headers, &[(&**name).into()]),
        }
    }
}

/// The value of a field that stands once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, &'static str> {
    let mut lines = headers.get_all(name).iter();
    let Some(value) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err("jwt_twice");
    }
    value.to_str().map(Some).map_err(|_| "jwt_malformed")
}

/// What stands behind `Bearer` (RFC 9110 §11.4: in any case, with spaces behind it).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn a_token_is_found_where_it_belongs_and_nowhere_else() {
        let own = TokenPlace::Header(HeaderName::from_static("x-token"));
        let cookie = TokenPlace::Cookie("token".into());
        for (place, fields, expected) in [
            (&TokenPlace::Bearer, &[("authorization", "Bearer a.b.c")][..], Ok(Some("a.b.c"))),
            (&TokenPlace::Bearer, &[("authorization", "bEARER   a ")], Ok(Some("a"))),
            (&TokenPlace::Bearer, &[("authorization", "Bearer ")], Ok(Some(""))),
            (&TokenPlace::Bearer, &[("authorization", "Bearer")], Ok(None)),
            (&TokenPlace::Bearer, &[("authorization", "Basic a")], Ok(None)),
            (&TokenPlace::Bearer, &[("authorization", "BearerX a")], Ok(None)),
            (&TokenPlace::Bearer, &[("x-token", "a"), ("cookie", "token=a")], Ok(None)),
            (
                &TokenPlace::Bearer,
                &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
                Err("jwt_twice"),
            ),
            (&own, &[("x-token", "a.b.c")], Ok(Some("a.b.c"))),
            (&own, &[("x-token", "Bearer a.b.c")], Ok(Some("a.b.c"))),
            (&own, &[("authorization", "Bearer a")], Ok(None)),
            (&cookie, &[("cookie", "a=b; token=a.b.c")], Ok(Some("a.b.c"))),
            (&cookie, &[("cookie", "token=a; token=b")], Err("jwt_twice")),
            (&cookie, &[("authorization", "Bearer a")], Ok(None)),
        ] {
            assert_eq!(place.find(&headers(fields)), expected, "{place:?} {fields:?}");
        }
    }
}
