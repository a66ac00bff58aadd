//! Fields in memory of their own. Those that came from a socket are parts of the buffer
//! that they were read into, which would be kept for as long as they are.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// What an entry of a header map takes: hash, name, value and links.
const ENTRY: usize = 104;

/// What an allocation takes beside its bytes, with the counter of one that is shared.
const ALLOCATION: usize = 32;

/// The same fields, their values in one piece of memory, in a map without room to spare.
pub(super) fn compact(headers: &HeaderMap) -> HeaderMap {
    let mut all = Vec::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| all.extend_from_slice(value.as_bytes()));
    let mut all = Bytes::from(all);
    let mut copied = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let sensitive = value.is_sensitive();
        let bytes = all.split_to(value.len());
        // What is a value stays one.
        let mut value = HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| value.clone());
        value.set_sensitive(sensitive);
        copied.append(name.clone(), value);
    }
    // A clone has room for what is in it.
    copied.clone()
}

/// How much memory such fields take, in bytes.
pub(super) fn weight(headers: &HeaderMap) -> usize {
    let places = (headers.len() + headers.len() / 3).next_power_of_two().max(8);
    let entries = headers.iter().map(|(name, value)| ENTRY + value.len() + of_name(name));
    2 * ALLOCATION + 4 * places + entries.sum::<usize>()
}

/// Well-known names are numbers.
fn of_name(name: &HeaderName) -> usize {
    let name = name.as_str();
    if name.starts_with("x-") { ALLOCATION + name.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_same_in_memory_of_their_own() {
        let buffer = Bytes::from_static(b"one two three");
        let mut headers = HeaderMap::new();
        for (name, part) in [("x-a", 0..3), ("x-a", 4..7), ("x-b", 8..13), ("x-c", 0..0)] {
            let value = HeaderValue::from_maybe_shared(buffer.slice(part)).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        headers.get_mut("x-b").unwrap().set_sensitive(true);
        let copied = compact(&headers);
        assert_eq!(copied, headers);
        assert!(copied["x-b"].is_sensitive() && !copied["x-a"].is_sensitive());
        let buffer = buffer.as_ptr_range();
        assert!(copied.values().all(|value| !buffer.contains(&value.as_bytes().as_ptr())));
    }
}
