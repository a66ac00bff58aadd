//! Parts of what is stored whole.

use http::header::{self, HeaderMap};

/// RFC 9110 §14.2 and §13.1.5: what a range request gets of a whole of `length` bytes.
pub(in crate::layers::cache) fn range(
    request: &HeaderMap,
    stored: &HeaderMap,
    length: u64,
) -> Part {
    let mut lines = request.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Part::Whole };
    if let Some(condition) = request.get(header::IF_RANGE) {
        let same = match stored.get(header::ETAG) {
            // Only a strong tag will do (§13.1.5).
            Some(tag) if condition.as_bytes().ends_with(b"\"") => {
                tag == condition && !tag.as_bytes().starts_with(b"W/")
            }
            _ => stored.get(header::LAST_MODIFIED) == Some(condition),
        };
        if !same {
            return Part::Whole;
        }
    }
    let Some(spec) = line.to_str().ok().and_then(|text| text.strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    // Of several the whole is sent: they may overlap, and cost more than they spare.
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Part::Whole;
    };
    let number = |text: &str| seconds_free(text.trim());
    match (first.trim().is_empty(), number(first), number(last)) {
        (true, _, Some(suffix)) if suffix > 0 && length > 0 => {
            Part::Of(length.saturating_sub(suffix), length - 1)
        }
        (true, _, Some(_)) => Part::Unsatisfiable,
        (false, Some(first), _) if first >= length => Part::Unsatisfiable,
        (false, Some(first), Some(last)) if last >= first => Part::Of(first, last.min(length - 1)),
        (false, Some(first), None) if last.trim().is_empty() => Part::Of(first, length - 1),
        _ => Part::Whole,
    }
}

fn seconds_free(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// What of a whole is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::layers::cache) enum Part {
    Whole,
    /// From the first to the last of these bytes.
    Of(u64, u64),
    Unsatisfiable,
}
