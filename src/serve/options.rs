//! `OPTIONS` as far as it is Tollgate's own to answer (RFC 9110 §7.6.2, §9.3.7):
//! asked for `*`, the server as a whole, or by a request that may go no further.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::validate::refuse;
use crate::respond::Answer;

/// What is served unless a route says otherwise.
pub(super) const ALLOW: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// The answer to a request that is not to be forwarded. One that is counts as
/// forwarded from here on.
pub(super) fn answer<B, ResB: From<Bytes>>(
    request: &mut Request<B>,
) -> Result<Option<Response<ResB>>, Answer> {
    if *request.method() != Method::OPTIONS {
        return Ok(None);
    }
    let left = max_forwards(request)?;
    if left != Some(0) && request.uri().path() != "*" {
        if let Some(left) = left {
            request.headers_mut().insert(header::MAX_FORWARDS, HeaderValue::from(left - 1));
        }
        return Ok(None);
    }
    let mut response = Response::new(ResB::from(Bytes::new()));
    response.headers_mut().insert(header::ALLOW, ALLOW);
    Ok(Some(response))
}

/// How often the request may still be forwarded. A number that is too large for
/// us is as many as we can count (RFC 9110 §7.6.2).
fn max_forwards<B>(request: &Request<B>) -> Result<Option<u32>, Answer> {
    let mut lines = request.headers().get_all(header::MAX_FORWARDS).iter();
    let (Some(line), next) = (lines.next(), lines.next()) else { return Ok(None) };
    let digits = line.to_str().ok().filter(|digits| {
        !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) && next.is_none()
    });
    match digits {
        Some(digits) => Ok(Some(digits.parse().unwrap_or(u32::MAX))),
        None => {
            let detail = "`Max-Forwards` is not one number.";
            Err(refuse(StatusCode::BAD_REQUEST, "max_forwards_invalid", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of the answer, or what `Max-Forwards` says of it further on.
    fn asked(method: &str, uri: &str, lines: &[&str]) -> String {
        let mut request = Request::builder().method(method).uri(uri);
        for line in lines {
            request = request.header(header::MAX_FORWARDS, *line);
        }
        let mut request = request.body(()).unwrap();
        match answer::<_, Bytes>(&mut request) {
            Ok(Some(response)) => response.status().to_string(),
            Ok(None) => match request.headers().get(header::MAX_FORWARDS) {
                Some(left) => left.to_str().unwrap().to_owned(),
                None => "forwarded".to_owned(),
            },
            Err(answer) => answer.status().to_string(),
        }
    }

    #[test]
    fn options_go_as_far_as_they_may() {
        assert_eq!(asked("OPTIONS", "*", &[]), "200 OK");
        assert_eq!(asked("OPTIONS", "*", &["5"]), "200 OK");
        assert_eq!(asked("OPTIONS", "/", &[]), "forwarded");
        assert_eq!(asked("OPTIONS", "/", &["0"]), "200 OK");
        assert_eq!(asked("OPTIONS", "/", &["000"]), "200 OK");
        assert_eq!(asked("OPTIONS", "/", &["1"]), "0");
        assert_eq!(asked("OPTIONS", "/", &["99999999999999999999"]), "4294967294");
        for bad in ["", "-1", "+1", "1.5", "0x1", "1, 1", "x"] {
            assert_eq!(asked("OPTIONS", "/", &[bad]), "400 Bad Request", "{bad}");
        }
        assert_eq!(asked("OPTIONS", "/", &["1", "1"]), "400 Bad Request");
        assert_eq!(asked("GET", "/", &["0"]), "0", "nobody else is asked to count");
    }
}
