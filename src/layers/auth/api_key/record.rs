//! A key as it stands in Redis: JSON under its digest.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ApiKey;
use crate::layers::KeyDigest;
use crate::pace::Quota;

/// What is not known here may mean that less is allowed: then the whole is not believed.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Record {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<NonZeroU32>,
}

/// Whether somebody may be called this.
///
/// # Errors
///
/// Why not, as a sentence.
pub fn check_key_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("a name has at least one character");
    }
    HeaderValue::from_str(name).map(drop).map_err(|_| "a name has no control characters")
}

/// Whether keys in Redis may begin with this.
///
/// # Errors
///
/// Why not, as a sentence.
pub fn check_key_prefix(prefix: &str) -> Result<(), &'static str> {
    if prefix.is_empty() || !prefix.chars().all(|c| c.is_ascii_graphic()) {
        return Err("what keys in Redis begin with has no spaces and is not empty");
    }
    if prefix.ends_with(':') {
        return Err("the colon between a prefix and a digest is no part of the prefix");
    }
    Ok(())
}

/// Whether this is one scope (RFC 6749 §3.3).
///
/// # Errors
///
/// Why not, as a sentence.
pub fn check_scope(scope: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b'\\');
    let is_one = !scope.is_empty() && scope.bytes().all(fits);
    is_one.then_some(()).ok_or("a scope is one word, without quotes and backslashes")
}

impl ApiKey {
    /// What is stored of it in Redis: one object of JSON, without its digest.
    #[must_use]
    pub fn to_record(&self) -> String {
        let record = Record {
            name: self.name.to_string(),
            id: self.id.as_ref().map(ToString::to_string),
            not_before: self.not_before.and_then(spelled),
            expires: self.expires.and_then(spelled),
            scopes: self.scopes.iter().map(ToString::to_string).collect(),
            rate: self.quota.map(|quota| quota.requests),
            per: self.quota.map(|quota| humantime::format_duration(quota.per).to_string()),
            burst: self.quota.map(|quota| quota.burst),
        };
        // Strings and numbers always can be.
        serde_json::to_string(&record).unwrap_or_default()
    }

    /// Reads such a record.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as a sentence. Nothing is left out that is not understood: it
    /// may have meant that less is allowed.
    pub fn from_record(digest: KeyDigest, record: &[u8]) -> Result<Self, String> {
        // An array would be taken for the values of an object without their names.
        if record.trim_ascii_start().first() != Some(&b'{') {
            return Err("it is no object".to_owned());
        }
        let record: Record = serde_json::from_slice(record).map_err(|error| error.to_string())?;
        check_key_name(&record.name)?;
        for scope in &record.scopes {
            check_scope(scope)?;
        }
        let quota = match (record.rate, record.per, record.burst) {
            (Some(rate), per, burst) => {
                let per = per.map_or(Ok(Duration::from_secs(1)), |per| duration(&per))?;
                let quota = Quota::new(rate, per).burst(burst.unwrap_or(rate));
                if !quota.refills_in_time() {
                    return Err("a burst would take more than ten years to come back".to_owned());
                }
                Some(quota)
            }
            (None, None, None) => None,
            (None, ..) => return Err("`per` and `burst` need a `rate`".to_owned()),
        };
        Ok(Self {
            name: record.name.into(),
            digest,
            id: record.id.map(Into::into),
            not_before: record.not_before.map(|text| moment(&text)).transpose()?,
            expires: record.expires.map(|text| moment(&text)).transpose()?,
            scopes: record.scopes.into_iter().map(Into::into).collect(),
            quota,
        })
    }
}

fn spelled(time: SystemTime) -> Option<String> {
    Timestamp::try_from(time).ok().map(|time| time.to_string())
}

fn moment(text: &str) -> Result<SystemTime, String> {
    let time: Timestamp = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    SystemTime::try_from(time).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let some = parsed >= Duration::from_millis(1);
    some.then_some(parsed).ok_or_else(|| "`per` is at least 1ms".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(record: &str) -> Result<ApiKey, String> {
        ApiKey::from_record(KeyDigest::of(b"x"), record.as_bytes())
    }

    #[test]
    fn what_is_written_is_read() {
        let mut key = ApiKey::new("ci \"é\"", KeyDigest::of(b"x"));
        assert_eq!(key.to_record(), r#"{"name":"ci \"é\""}"#);
        assert_eq!(read(&key.to_record()), Ok(key.clone()));
        key.id = Some("3fa9".into());
        key.not_before = Some(moment("2026-01-01T00:00:00Z").unwrap());
        key.expires = Some(moment("2027-01-01T00:00:00+01:00").unwrap());
        key.scopes = ["read".into(), "a:b".into()].into();
        let rate = NonZeroU32::new(100).unwrap();
        key.quota = Some(Quota::new(rate, Duration::from_secs(90)).burst(NonZeroU32::MIN));
        assert_eq!(read(&key.to_record()), Ok(key));
    }

    #[test]
    fn a_prefix_goes_up_to_its_colon() {
        assert_eq!(check_key_prefix("tollgate:keys"), Ok(()));
        for wrong in ["", "a b", "keys:", "ä"] {
            assert!(check_key_prefix(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_not_believed() {
        for (record, word) in [
            ("", "no object"),
            ("{", "EOF"),
            (r#"["a"]"#, "no object"),
            ("{}", "at least one"),
            (r#"{"name":"a\n"}"#, "control"),
            (r#"{"name":"a","scope":["x"]}"#, "unknown field"),
            (r#"{"name":"a","scopes":["x y"]}"#, "one word"),
            (r#"{"name":"a","scopes":"x"}"#, "sequence"),
            (r#"{"name":"a","expires":"2027-01-01"}"#, "time component"),
            (r#"{"name":"a","expires":null,"rate":0}"#, "nonzero"),
            (r#"{"name":"a","burst":5}"#, "need a `rate`"),
            (r#"{"name":"a","rate":5,"per":"0s"}"#, "1ms"),
            (r#"{"name":"a","rate":1,"per":"1y","burst":11}"#, "ten years"),
            (r#"{"name":"a"} x"#, "trailing"),
        ] {
            let why = read(record).unwrap_err();
            assert!(why.contains(word), "{record}: {why}");
        }
    }
}
