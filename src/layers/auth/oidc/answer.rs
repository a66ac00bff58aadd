//! What somebody comes back with from the provider.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What somebody comes back with (RFC 6749 §4.1.2).
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) state: String,
    pub(super) code: Option<String>,
    pub(super) error: Option<String>,
    pub(super) issuer: Option<String>,
}

impl Answer {
    /// Reads a query; `None` where something stands twice, or there is no state.
    pub(super) fn read(query: &str) -> Option<Self> {
        let mut answer = Self::default();
        let mut state = None;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match &*decoded(name)? {
                "state" => &mut state,
                "code" => &mut answer.code,
                "error" => &mut answer.error,
                "iss" => &mut answer.issuer,
                _ => continue,
            };
            if slot.replace(decoded(value)?.into_owned()).is_some() {
                return None;
            }
        }
        answer.state = state?;
        Some(answer)
    }
}

/// Text of a form.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode_str(&spaced).decode_utf8().ok().map(|text| text.into_owned().into());
    }
    percent_decode_str(text).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_comes_back_with_is_read_and_nothing_twice() {
        let answer =
            Answer::read("code=a%2Bb+c&state=s&iss=https%3A%2F%2Fid.test&x=1&x=2").unwrap();
        assert_eq!(answer.code.as_deref(), Some("a+b c"));
        assert_eq!(answer.state, "s");
        assert_eq!(answer.issuer.as_deref(), Some("https://id.test"));
        for query in ["", "code=a", "state=a&state=b", "state=a&code=b&c%6fde=c", "state=%ff"] {
            assert!(Answer::read(query).is_none(), "{query}");
        }
        assert_eq!(Answer::read("state=a&error=access_denied").unwrap().code, None);
    }
}
