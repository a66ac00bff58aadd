//! What is made of a token that was believed.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::claims::Claims;

/// The longest name of anybody, in bytes.
const NAME_LIMIT: usize = 256;

/// Whose a token is.
pub(in crate::layers::auth) fn name(
    claims: &Claims,
    claim: &str,
) -> Result<Arc<str>, &'static str> {
    let name = match claims.get(claim) {
        Some(Value::String(name)) => Cow::Borrowed(&**name),
        Some(Value::Number(number)) => number.to_string().into(),
        _ => return Err("jwt_no_name"),
    };
    let is_sound = !name.is_empty() && name.len() <= NAME_LIMIT && is_plain(&name);
    if is_sound { Ok(name.into()) } else { Err("jwt_claims") }
}

/// Claims as fields for the origin. What is not there has no field.
///
/// # Errors
///
/// A claim cannot stand in a field as it is. Made to fit it could be taken for another.
pub(in crate::layers::auth) fn fields(
    claims: &Claims,
    wanted: &[(String, HeaderName)],
) -> Result<Vec<(HeaderName, HeaderValue)>, &'static str> {
    let mut fields = Vec::with_capacity(wanted.len());
    for (claim, field) in wanted {
        let text = match claims.get(claim) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => {
                let mut joined = String::new();
                for value in list {
                    let text = text(value).filter(|text| !text.contains(','));
                    if !joined.is_empty() {
                        joined.push(',');
                    }
                    joined.push_str(&text.ok_or("jwt_claims")?);
                }
                joined.into()
            }
            Some(value) => text(value).ok_or("jwt_claims")?,
        };
        let value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| "jwt_claims")?;
        fields.push((field.clone(), value));
    }
    Ok(fields)
}

fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => is_plain(text).then_some(text.into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(is_so) => Some(is_so.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether it is the same after it has been in a field, where spaces around it are
/// nothing (RFC 9110 §5.5), and no control characters stand.
fn is_plain(text: &str) -> bool {
    text.trim().len() == text.len() && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(json: &Value) -> Claims {
        Claims::read(json.to_string().as_bytes()).unwrap()
    }

    fn field(value: &Value) -> Result<Option<String>, &'static str> {
        let wanted = [("claim".to_owned(), HeaderName::from_static("x-claim"))];
        let fields = fields(&claims(&json!({ "claim": value })), &wanted)?;
        let value = |(_, value): &(HeaderName, HeaderValue)| {
            String::from_utf8(value.as_bytes().to_vec()).unwrap()
        };
        Ok(fields.first().map(value))
    }

    #[test]
    fn claims_are_fields_as_they_are_or_not_at_all() {
        for (value, expected) in [
            (json!("alice"), Ok(Some("alice"))),
            (json!("José Ünal"), Ok(Some("José Ünal"))),
            (json!(""), Ok(Some(""))),
            (json!(7), Ok(Some("7"))),
            (json!(true), Ok(Some("true"))),
            (json!(null), Ok(None)),
            (json!(["a", "b", 3]), Ok(Some("a,b,3"))),
            (json!([]), Ok(Some(""))),
            (json!(["a,b"]), Err("jwt_claims")),
            (json!([["a"]]), Err("jwt_claims")),
            (json!({ "a": "b" }), Err("jwt_claims")),
            (json!("a\r\nX-Admin: 1"), Err("jwt_claims")),
            (json!("a\u{0}"), Err("jwt_claims")),
            (json!("a\u{85}"), Err("jwt_claims")),
            (json!(" admin"), Err("jwt_claims")),
            (json!("admin\u{a0}"), Err("jwt_claims")),
            (json!(["a\n"]), Err("jwt_claims")),
        ] {
            assert_eq!(field(&value), expected.map(|text| text.map(str::to_owned)), "{value}");
        }
        assert_eq!(fields(&claims(&json!({})), &[]), Ok(Vec::new()));
    }

    #[test]
    fn a_token_has_a_name_that_can_be_told() {
        let name = |value: &Value| name(&claims(&json!({ "sub": value })), "sub");
        assert_eq!(name(&json!("alice")).as_deref(), Ok("alice"));
        assert_eq!(name(&json!(42)).as_deref(), Ok("42"));
        for missing in [json!(null), json!(["a"]), json!({})] {
            assert_eq!(name(&missing), Err("jwt_no_name"), "{missing}");
        }
        for wrong in [json!(""), json!(" a"), json!("a\n"), json!("a".repeat(257))] {
            assert_eq!(name(&wrong), Err("jwt_claims"), "{wrong}");
        }
    }
}
