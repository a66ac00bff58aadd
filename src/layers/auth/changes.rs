//! Carries out what being let in changes on a request.

use std::collections::HashSet;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};

use super::authenticate::Changes;
use super::cookies;
use crate::context::parameter_name;
use crate::layers::twins::remove_twins;

/// Carries out several changes as one: all that is taken out is, and then all that is set is
/// set. Of two that set one field the first has the say, as it has of who it is.
pub(super) fn apply(changes: &[Arc<Changes>], parts: &mut Parts) {
    for change in changes {
        for name in &change.remove {
            remove_twins(&mut parts.headers, name);
        }
        strip_cookies(&mut parts.headers, &change.strip_cookies);
        if let Some(parameter) = &change.strip_query {
            strip_parameter(parts, parameter);
        }
    }
    for (at, change) in changes.iter().enumerate() {
        for (name, value) in &change.set {
            let is_set = |before: &Arc<Changes>| before.set.iter().any(|(set, _)| set == name);
            if !changes[..at].iter().any(is_set) {
                remove_twins(&mut parts.headers, name);
                parts.headers.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Takes cookies out, and leaves the others.
pub(super) fn strip_cookies(headers: &mut HeaderMap, names: &[Box<str>]) {
    if !names.is_empty() && headers.contains_key(header::COOKIE) {
        // A request may have thousands of either.
        let names: HashSet<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let left = cookies::without(headers, |one| names.contains(one));
        match left {
            Some(left) => drop(headers.insert(header::COOKIE, left)),
            None => drop(headers.remove(header::COOKIE)),
        }
    }
}

/// Takes a query parameter out, also of the URL that the request says it comes from.
pub(super) fn strip_parameter(parts: &mut Parts, parameter: &str) {
    if let Some(stripped) = without(&parts.uri, parameter) {
        parts.uri = stripped;
    }
    let referer = parts.headers.get(header::REFERER).and_then(|value| value.to_str().ok());
    let stripped = referer.and_then(|text| without(&text.parse().ok()?, parameter));
    if let Some(value) = stripped.and_then(|uri| HeaderValue::try_from(uri.to_string()).ok()) {
        parts.headers.insert(header::REFERER, value);
    }
}

/// The target without a parameter; `None` if it has none of that name.
fn without(uri: &Uri, parameter: &str) -> Option<Uri> {
    let query = uri.query()?;
    let is_it = |pair: &&str| parameter_name(pair) == parameter;
    if !query.split('&').any(|pair| is_it(&pair)) {
        return None;
    }
    let left: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    let target = match left.as_slice() {
        [] => uri.path().to_owned(),
        left => format!("{}?{}", uri.path(), left.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    // What was taken out of a target leaves a target.
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, Request};

    #[test]
    fn a_parameter_goes_however_its_name_is_written_and_no_other_does() {
        for (before, after) in [
            ("/x?a=1&key=s&b=2", "/x?a=1&b=2"),
            ("/x?key=s", "/x"),
            ("/x?k%65y=s&KEY=t", "/x?KEY=t"),
            ("/x?key", "/x"),
            ("/x?key=1&key=2&c", "/x?c"),
            ("/x?monkey=1", "/x?monkey=1"),
            ("/x", "/x"),
            ("https://a.test/x?key=s", "https://a.test/x"),
        ] {
            let mut parts = Request::get(before).body(()).unwrap().into_parts().0;
            let strip_query = Some("key".into());
            apply(&[Changes { strip_query, ..Changes::default() }.into()], &mut parts);
            assert_eq!(parts.uri, after, "{before}");
        }
    }

    #[test]
    fn what_is_set_stands_in_the_place_of_its_twins() {
        let request = Request::get("/").header("x_user", "root").header("authorization", "x");
        let mut parts = request.body(()).unwrap().into_parts().0;
        let changes = Changes {
            remove: vec![http::header::AUTHORIZATION],
            set: vec![(HeaderName::from_static("x-user"), HeaderValue::from_static("alice"))],
            ..Changes::default()
        };
        apply(&[changes.into()], &mut parts);
        assert_eq!(parts.headers.len(), 1, "{:?}", parts.headers);
        assert_eq!(parts.headers["x-user"], "alice");
    }

    fn setting(value: &'static str) -> Arc<Changes> {
        let set = vec![(HeaderName::from_static("x-user"), HeaderValue::from_static(value))];
        Changes { set, ..Changes::default() }.into()
    }

    #[test]
    fn of_two_that_set_a_field_the_first_has_the_say_and_nobody_takes_it_out_again() {
        let remove = vec![HeaderName::from_static("x-user")];
        let third = Changes { remove, ..Changes::default() }.into();
        let mut parts = Request::get("/").body(()).unwrap().into_parts().0;
        apply(&[setting("alice"), setting("bob"), third], &mut parts);
        assert_eq!(parts.headers["x-user"], "alice");
    }

    #[test]
    fn each_takes_its_own_cookie_out_and_no_other() {
        let stripping = |name: &str| -> Arc<Changes> {
            Changes { strip_cookies: vec![name.into()], ..Changes::default() }.into()
        };
        let request = Request::get("/").header("cookie", "a=1; b=2; c=3");
        let mut parts = request.body(()).unwrap().into_parts().0;
        apply(&[stripping("a"), stripping("c")], &mut parts);
        assert_eq!(parts.headers["cookie"], "b=2");
        apply(&[stripping("b")], &mut parts);
        assert!(!parts.headers.contains_key("cookie"));
    }

    #[test]
    fn a_parameter_is_taken_out_of_where_the_request_comes_from_as_well() {
        let request = Request::get("/").header("referer", "https://a.test/x?key=s&b=1");
        let mut parts = request.body(()).unwrap().into_parts().0;
        strip_parameter(&mut parts, "key");
        assert_eq!(parts.headers["referer"], "https://a.test/x?b=1");
    }
}
