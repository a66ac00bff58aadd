//! The pieces of a line, written straight into the buffer that it waits in.
//!
//! A line is written for each request: what is common is copied or worked out by
//! hand, and the machinery of formatting is left to what is rare.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write as _;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

use crate::context::{RequestLine, parameter_name};

/// Query parameters whose values are not logged.
const SECRET_PARAMETERS: [&str; 9] =
    ["access_token", "api_key", "apikey", "key", "password", "secret", "sig", "signature", "token"];

/// A whole number.
pub(super) fn number(into: &mut Vec<u8>, mut number: u64) {
    // As many digits as the largest has.
    let mut digits = [0_u8; 20];
    let mut first = digits.len();
    for place in digits.iter_mut().rev() {
        *place = digit(number);
        number /= 10;
        first -= 1;
        if number == 0 {
            break;
        }
    }
    into.extend_from_slice(&digits[first..]);
}

/// Milliseconds, to the microsecond.
pub(super) fn milliseconds(into: &mut Vec<u8>, duration: Duration) {
    let fraction = u64::from(duration.subsec_micros() % 1_000);
    let whole = duration.as_secs().saturating_mul(1_000) + u64::from(duration.subsec_millis());
    number(into, whole);
    into.push(b'.');
    into.extend_from_slice(&thousandths(fraction));
}

/// The time, to the millisecond, as text. What changes once a second is written
/// once a second.
pub(super) fn with_time<T>(now: Timestamp, read: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    SECOND.with_borrow_mut(|(second, text)| {
        if *second == now.as_second() {
            text.truncate(text.len() - "000Z".len());
        } else {
            *second = now.as_second();
            *text = now.strftime("%Y-%m-%dT%H:%M:%S.").to_string();
        }
        let fraction = thousandths(now.subsec_millisecond().unsigned_abs().into());
        text.extend(fraction.map(char::from));
        text.push('Z');
        read(text)
    })
}

/// An address without a port.
pub(super) fn address(into: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    into.push(b'.');
                }
                number(into, octet.into());
            }
        }
        IpAddr::V6(v6) => {
            // Writing to a buffer does not fail.
            let _ = write!(into, "{v6}");
        }
    }
}

/// Text without quotes, backslashes, control characters or bidi tricks.
pub(super) fn escaped(into: &mut Vec<u8>, text: &[u8]) {
    if !needs_escapes(text) {
        return into.extend_from_slice(text);
    }
    for character in String::from_utf8_lossy(text).chars() {
        match character {
            '"' | '\\' => into.extend([b'\\', character as u8]),
            ' '..='~' => into.push(character as u8),
            _ if character.is_alphanumeric() => {
                into.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => {
                let _ = write!(into, "{}", character.escape_unicode());
            }
        }
    }
}

/// A key with what stands before and after it, and its value if there is one:
/// in quotes where that is not one plain word.
pub(super) fn pair<T: AsRef<[u8]>>(into: &mut Vec<u8>, key: &str, value: Option<T>) {
    let Some(value) = value else { return };
    let value = value.as_ref();
    into.extend_from_slice(key.as_bytes());
    if !value.is_empty() && !value.contains(&b' ') && !needs_escapes(value) {
        return into.extend_from_slice(value);
    }
    into.push(b'"');
    escaped(into, value);
    into.push(b'"');
}

/// Path and query in pieces, without the values of secret parameters: those that always
/// are, and `secrets`.
pub(super) fn target<'a, E>(
    request: &'a RequestLine,
    secrets: &[Arc<str>],
    mut piece: impl FnMut(&'a str) -> Result<(), E>,
) -> Result<(), E> {
    piece(request.uri.path())?;
    let Some(query) = request.uri.query() else { return Ok(()) };
    for (index, pair) in query.split('&').enumerate() {
        piece(if index == 0 { "?" } else { "&" })?;
        match up_to_secret(pair, secrets) {
            Some(shown) => {
                piece(shown)?;
                piece("=***")?;
            }
            None => piece(pair)?,
        }
    }
    Ok(())
}

/// A host without a name and a password before it.
pub(super) fn host(host: &HeaderValue) -> &[u8] {
    host.as_bytes().rsplit(|byte| *byte == b'@').next().unwrap_or_default()
}

/// A URL without the values of secret parameters, and without a name and a password before
/// its host.
pub(super) fn url<'a>(url: Cow<'a, str>, secrets: &[Arc<str>]) -> Cow<'a, str> {
    let (before, query) = match url.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (&*url, None),
    };
    let credentials = credentials(before);
    let mut pairs = query.into_iter().flat_map(|query| query.split('&'));
    if credentials.is_none() && pairs.all(|pair| up_to_secret(pair, secrets).is_none()) {
        return url;
    }
    let mut shown = String::with_capacity(url.len());
    match credentials {
        Some(Range { start, end }) => shown.extend([&before[..start], &before[end..]]),
        None => shown.push_str(before),
    }
    for (index, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        match up_to_secret(pair, secrets) {
            Some(name) => shown.extend([name, "=***"]),
            None => shown.push_str(pair),
        }
    }
    shown.into()
}

/// Where a URL up to its query has a name and a password (RFC 3986 §3.2.1).
fn credentials(url: &str) -> Option<Range<usize>> {
    let slashes = url.find("//")?;
    // Lenient readers skip any more of them.
    let start = url.len() - url[slashes..].trim_start_matches('/').len();
    let authority = url[start..].split(['/', '#']).next()?;
    Some(start..start + authority.rfind('@')? + 1)
}

/// What is shown of a pair of a query that has a secret: all up to its value. Some readers
/// take `;` for `&`, so it may stand in the midst.
fn up_to_secret<'a>(pair: &'a str, secrets: &[Arc<str>]) -> Option<&'a str> {
    let mut start = 0;
    for part in pair.split(';') {
        if let Some((name, _)) = part.split_once('=')
            && is_secret(name, secrets)
        {
            return Some(&pair[..start + name.len()]);
        }
        start += part.len() + 1;
    }
    None
}

fn is_secret(name: &str, secrets: &[Arc<str>]) -> bool {
    let name = parameter_name(name);
    SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
        || secrets.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// Whether text has anything but plain ASCII without quotes and backslashes.
/// All of it is looked at, since that is quicker than to stop early.
fn needs_escapes(text: &[u8]) -> bool {
    text.iter().fold(false, |found, byte| {
        found | !(b' '..=b'~').contains(byte) | (*byte == b'"') | (*byte == b'\\')
    })
}

fn thousandths(number: u64) -> [u8; 3] {
    [digit(number / 100), digit(number / 10), digit(number)]
}

#[allow(clippy::cast_possible_truncation, reason = "the remainder is below ten")]
fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}
