//! The other ways to read a path.
//!
//! Tollgate matches and forwards a path as it was sent. An origin may read it
//! more freely: it may take an escape for the character it stands for
//! (RFC 3986 §2.4), once or again, two slashes for one, a backslash for a slash,
//! and leave aside path parameters (§3.3), dots and spaces at a segment's end, and
//! all that follows an escaped `?`, `#` or NUL. A path that all readings lead to the
//! same route is harmless; one that they do not would let a request past the
//! layers of the route that the origin thinks it came by.

use percent_encoding::percent_decode_str;

/// How often a path is read again: by origins behind one another, each of which
/// takes the escapes out once.
const ROUNDS: usize = 3;

/// The paths that `path` may be taken for, each read from the one before; none
/// where that is the path itself.
pub fn readings(path: &str) -> impl Iterator<Item = String> {
    std::iter::successors(freest(path), |read| freest(read)).take(ROUNDS)
}

/// The path as the freest reader would have it; `None` where that is the path
/// itself.
fn freest(path: &str) -> Option<String> {
    if is_plain(path.as_bytes()) {
        return None;
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let decoded = decoded.split(['?', '#', '\0']).next().unwrap_or_default();
    let mut names: Vec<&str> = Vec::new();
    let mut last = "";
    for segment in decoded.split(['/', '\\']) {
        last = segment.split(';').next().unwrap_or_default();
        match last {
            ".." => {
                names.pop();
            }
            _ => names.push(last.trim_end_matches(['.', ' '])),
        }
        if names.last().is_some_and(|name| name.is_empty()) {
            names.pop();
        }
    }
    let mut read = String::with_capacity(decoded.len());
    for name in names {
        read.push('/');
        read.push_str(name);
    }
    if matches!(last, "" | "." | "..") || read.is_empty() {
        read.push('/');
    }
    (read != path).then_some(read)
}

/// Whether a path has nothing that could be read in another way.
fn is_plain(path: &[u8]) -> bool {
    let odd = |byte: &u8| matches!(byte, b'%' | b';' | b'\\' | b'?' | b'#' | b' ' | 0);
    !path.iter().any(odd)
        && !path.ends_with(b".")
        && !path.windows(2).any(|pair| matches!(pair, b"//" | b"./" | b"/."))
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
            ("/admin%3fx", "/admin"),
            ("/admin%23/x", "/admin"),
            ("/admin.", "/admin"),
            ("/admin%20/x%2e", "/admin/x"),
            ("/a/%2e%2e/admin", "/admin"),
            ("/a/..;/admin/.", "/admin/"),
            ("/a%5c..%5cadmin", "/admin"),
            ("/../..", "/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/%2561", "/%61"),
        ];
        for (path, read) in cases {
            let expected = (read != path).then(|| read.to_owned());
            assert_eq!(freest(path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_escaped_again_is_read_again_but_not_for_ever() {
        let all = |path| readings(path).collect::<Vec<_>>();
        assert_eq!(all("/%2561dmin"), ["/%61dmin", "/admin"]);
        assert_eq!(all("/a/%252e%252e/admin"), ["/a/%2e%2e/admin", "/admin"]);
        assert_eq!(all("/admin%2500.png"), ["/admin%00.png", "/admin"]);
        assert_eq!(all(&format!("/%{}61", "25".repeat(1_000))).len(), ROUNDS);
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["/", "/a/b.c", "/a/b/", "/@x:1,2+3=4&5~6"] {
            assert_eq!(freest(path), None, "{path}");
        }
    }
}
