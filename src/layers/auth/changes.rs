//! Carries out what being let in changes on a request.

use http::Uri;
use http::request::Parts;
use http::uri::PathAndQuery;

use super::authenticate::Changes;
use crate::context::parameter_name;
use crate::layers::twins::remove_twins;

/// Changes the head of a request.
pub(super) fn apply(changes: &Changes, parts: &mut Parts) {
    for name in &changes.remove {
        remove_twins(&mut parts.headers, name);
    }
    for (name, value) in &changes.set {
        remove_twins(&mut parts.headers, name);
        parts.headers.insert(name.clone(), value.clone());
    }
    if let Some(parameter) = &changes.strip_query
        && let Some(stripped) = without(&parts.uri, parameter)
    {
        parts.uri = stripped;
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
    use http::{HeaderName, HeaderValue, Request};

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
            apply(&Changes { strip_query, ..Changes::default() }, &mut parts);
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
            strip_query: None,
        };
        apply(&changes, &mut parts);
        assert_eq!(parts.headers.len(), 1, "{:?}", parts.headers);
        assert_eq!(parts.headers["x-user"], "alice");
    }
}
