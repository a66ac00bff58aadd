//! The parameters of a query.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The name of a parameter, as whoever reads a form would have it. `pair` is what stands
/// between two `&`.
#[must_use]
pub fn parameter_name(pair: &str) -> Cow<'_, str> {
    let name = pair.split_once('=').map_or(pair, |(name, _)| name);
    if !name.contains(['%', '+']) {
        return Cow::Borrowed(name);
    }
    let spaced = name.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_it_is_written() {
        for pair in ["a_b=c=d", "a_b", "a%5fb=", "%61%5Fb=x", "a_b="] {
            assert_eq!(parameter_name(pair), "a_b", "{pair}");
        }
        assert_eq!(parameter_name("a+b=c"), "a b");
        assert_eq!(parameter_name("%ff%2"), "\u{fffd}%2");
        assert_eq!(parameter_name(""), "");
    }
}
