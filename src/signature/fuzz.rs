//! A way in for the fuzz targets.

use http::{HeaderMap, Method, Uri};

use super::{Message, Scheme, digest, read};

/// Reads the signatures of a request's fields, and makes the base of each; tells how
/// many could be read.
#[must_use]
pub fn signatures(headers: &HeaderMap, target: &Uri, body: &[u8]) -> usize {
    let _is_of = digest::is_of(headers, body);
    let message = Message {
        method: &Method::GET,
        scheme: Scheme::Https,
        authority: "a.test",
        target,
        is_absolute: false,
        headers,
    };
    let received = read(headers).unwrap_or_default();
    for one in &received {
        if let Ok(base) = one.base(&message) {
            assert!(base.is_ascii(), "{base}");
            let lines = base.lines().filter(|line| line.starts_with("\"@signature-params\": "));
            assert_eq!(lines.count(), 1, "{base}");
        }
    }
    received.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    const ALPHABET: &str = "[a-c@=;,:()\"?%A-C0-9 .*-]{0,80}";

    proptest! {
        #[test]
        fn nothing_that_a_stranger_writes_makes_it_panic(
            input in ALPHABET,
            signature in ALPHABET,
            content in ALPHABET,
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("signature-input", format!("a=(\"@method\" \"content-digest\";bs);k={input}")),
                ("signature-input", input.clone()),
                ("signature", format!("a=:AA==:, {signature}")),
                ("content-digest", content),
            ] {
                headers.append(name, HeaderValue::from_str(&value).unwrap());
            }
            let _read = signatures(&headers, &Uri::from_static("/a?b=c&b=d"), b"");
        }
    }
}
