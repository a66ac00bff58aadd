//! The pieces of a line, written straight into the buffer that it waits in.
//!
//! A line is written for each request: what is common is copied or worked out by
//! hand, and the machinery of formatting is left to what is rare.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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
        match pair.split_once('=') {
            Some((name, _)) if is_secret(name, secrets) => {
                piece(name)?;
                piece("=***")?;
            }
            _ => piece(pair)?,
        }
    }
    Ok(())
}

/// A URL without the values of secret parameters.
pub(super) fn url<'a>(url: Cow<'a, str>, secrets: &[Arc<str>]) -> Cow<'a, str> {
    let Some((before, query)) = url.split_once('?') else { return url };
    let hides =
        |pair: &str| matches!(pair.split_once('='), Some((name, _)) if is_secret(name, secrets));
    if !query.split('&').any(hides) {
        return url;
    }
    let mut shown = format!("{before}?");
    for (index, pair) in query.split('&').enumerate() {
        shown.push_str(if index == 0 { "" } else { "&" });
        match pair.split_once('=') {
            Some((name, _)) if hides(pair) => shown.extend([name, "=***"]),
            _ => shown.push_str(pair),
        }
    }
    shown.into()
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
