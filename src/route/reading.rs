//! The other way to read a path.
//!
//! Tollgate matches and forwards a path as it was sent. An origin may read it
//! more freely: it may take an escape for the character it stands for
//! (RFC 3986 §2.4), two slashes for one, and leave path parameters aside
//! (§3.3). A path that both readings lead to the same route is harmless;
//! one that they do not would let a request past the layers of the route that
//! the origin thinks it came by.

use percent_encoding::percent_decode_str;

/// The path as the freest reader would have it; `None` where that is the path
/// itself.
#[must_use]
pub fn freest(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let plain = !bytes.iter().any(|byte| matches!(byte, b'%' | b';'))
        && !bytes.windows(2).any(|pair| pair == b"//");
    if plain {
        return None;
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut read = String::with_capacity(decoded.len());
    for segment in decoded.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        if !name.is_empty() {
            read.push('/');
            read.push_str(name);
        }
    }
    if decoded.ends_with('/') || read.is_empty() {
        read.push('/');
    }
    (read != path).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_slashes_and_parameters_are_read_freely() {
        let cases = [
            ("/%61dmin", "/admin"),
            ("/a%2Fb", "/a/b"),
            ("//admin//x", "/admin/x"),
            ("/%2fadmin", "/admin"),
            ("/admin;v=1/x;y", "/admin/x"),
            ("/;x/admin", "/admin"),
            ("/admin%3bx/y/", "/admin/y/"),
            ("//", "/"),
            ("/caf%C3%A9", "/café"),
            ("/100%", "/100%"),
        ];
        for (path, read) in cases {
            let expected = (read != path).then(|| read.to_owned());
            assert_eq!(freest(path), expected, "{path}");
        }
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["/", "/a/b.c", "/a/b/", "/@x:1,2+3=4&5~6"] {
            assert_eq!(freest(path), None, "{path}");
        }
    }
}
