//! Files of users with their passwords, as Apache's `htpasswd` writes them.

use std::collections::HashMap;
use std::ops::Range;

use super::BasicUser;
use super::hash::PasswordHashError;

/// The longest name of a user, in bytes.
pub(super) const MAX_USER: usize = 255;

/// What is wrong with a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HtpasswdFault {
    /// Where it stands in the text, in bytes.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
}

/// Reads the text of such a file: on each line a name, a colon and a hash; what stands
/// behind another colon is a remark, and so is a line that begins with `#`.
///
/// # Errors
///
/// Everything that is wrong with it. What is said of it has no part of a hash.
pub fn parse_htpasswd(text: &str) -> Result<Vec<BasicUser>, Vec<HtpasswdFault>> {
    let (mut users, mut faults, mut lines) = (Vec::new(), Vec::new(), HashMap::new());
    // Some editors begin a text with a mark of its encoding.
    let lines_of = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut start = text.len() - lines_of.len();
    for (index, line) in lines_of.split_inclusive('\n').enumerate() {
        let at = start;
        start += line.len();
        let line = line.trim_end_matches(['\r', '\n']);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match user(line) {
            Ok(user) => {
                if let Some(before) = lines.insert(user.name.clone(), index + 1) {
                    let message = format!("`{}` stands on line {before} already", user.name);
                    let span = at..at + user.name.len();
                    faults.push(HtpasswdFault { span, message, hint: None });
                }
                users.push(user);
            }
            Err((span, message, hint)) => {
                let span = at + span.start..at + span.end;
                faults.push(HtpasswdFault { span, message, hint });
            }
        }
    }
    if faults.is_empty() { Ok(users) } else { Err(faults) }
}

type Fault = (Range<usize>, String, Option<String>);

fn user(line: &str) -> Result<BasicUser, Fault> {
    let makes = |name: &str| format!("`tollgate hash-password --user {name}` makes a line");
    let Some((name, rest)) = line.split_once(':') else {
        let message = "expected a name, a colon and a hash".to_owned();
        return Err((0..line.len(), message, Some(makes("NAME"))));
    };
    if let Err(message) = check_user(name) {
        return Err((0..name.len().max(1), message, None));
    }
    let hash = rest.split(':').next().unwrap_or_default();
    match hash.parse() {
        Ok(password) => Ok(BasicUser { name: name.into(), password, scopes: Box::default() }),
        Err(error) => {
            let hint = match error {
                PasswordHashError::TooDear { .. } => None,
                _ => Some(makes(name)),
            };
            let span = name.len() + 1..name.len() + 1 + hash.len();
            Err((span, error.to_string(), hint))
        }
    }
}

/// Whether a user may be called this (RFC 7617 §2).
///
/// # Errors
///
/// Why not, as a sentence.
pub fn check_user(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a user has a name".to_owned());
    }
    if name.len() > MAX_USER {
        return Err(format!("a user's name has at most {MAX_USER} bytes"));
    }
    if name.contains(':') || name.chars().any(char::is_control) {
        return Err("a user's name has no colon and no control characters".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy";

    #[test]
    fn names_and_hashes_are_read_and_remarks_are_not() {
        let text =
            format!("# people\r\n\r\nalice:{HASH}\r\nbö b:{HASH}:since May\n  \ncarol:{HASH}");
        let users = parse_htpasswd(&text).unwrap();
        let names: Vec<_> = users.iter().map(|user| &*user.name).collect();
        assert_eq!(names, ["alice", "bö b", "carol"]);
        assert_eq!(parse_htpasswd("").unwrap(), []);
        let marked = parse_htpasswd(&format!("\u{feff}alice:{HASH}")).unwrap();
        assert_eq!(&*marked[0].name, "alice");
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_without_the_hash() {
        let text = format!(
            "alice:{HASH}\nbob\n:{HASH}\ncarol:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\n\
             alice:{HASH}\na\tb:{HASH}\ndave:hunter2\n"
        );
        let faults = parse_htpasswd(&text).unwrap_err();
        let told: Vec<(usize, &str)> = faults
            .iter()
            .map(|fault| (text[..fault.span.start].lines().count().max(1), &*fault.message))
            .collect();
        assert_eq!(faults.len(), 6, "{told:?}");
        assert!(faults[2].message.contains("SHA-1"));
        assert_eq!(&text[faults[2].span.clone()], "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=");
        assert!(faults[2].hint.as_ref().unwrap().contains("hash-password --user carol"));
        assert!(faults[3].message.contains("line 1 already"));
        assert!(faults.iter().all(|fault| !fault.message.contains("hunter2")));
        assert!(faults.iter().all(|fault| text.get(fault.span.clone()).is_some()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}(:.{0,20})?(\n.{0,40}:.{0,9})?") {
            for fault in parse_htpasswd(&text).err().into_iter().flatten() {
                proptest::prop_assert!(text.get(fault.span).is_some());
            }
        }
    }
}
