//! From a stored response to the answer to one client.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::content::Content;
use super::policy::{Part, range, s4_3_2_is_known};
use super::status::Status;
use super::store::Head;
use crate::body::Body;

/// What a client's own request says of what it wants of a stored response.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    head: bool,
    ranged: bool,
    /// Its conditions and its range; empty for most.
    fields: HeaderMap,
}

impl Client {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let names =
            [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::RANGE, header::IF_RANGE];
        let mut fields = HeaderMap::new();
        for name in names {
            for value in request.headers().get_all(&name) {
                fields.append(name.clone(), value.clone());
            }
        }
        let (head, ranged) =
            (*request.method() == Method::HEAD, fields.contains_key(header::RANGE));
        Self { head, ranged, fields }
    }

    pub(super) fn is_head(&self) -> bool {
        self.head
    }

    /// Whether it wants a part only.
    pub(super) fn is_ranged(&self) -> bool {
        self.ranged
    }
}

/// Answers with what is stored; `None` if the body's beginning is gone.
pub(super) fn answer(
    client: &Client,
    head: &Head,
    content: &Content,
    mut status: Status,
) -> Option<Response<Body>> {
    let now = Instant::now();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers.clone();
    let age = head.freshness.age(now).as_secs();
    // RFC 9111 §5.1: who has it says that the origin was not asked for this request.
    if age > 0 || status.forwarded.is_none() || status.collapsed {
        response.headers_mut().insert(header::AGE, HeaderValue::from(age));
    }
    status.ttl = Some(head.freshness.ttl(now));
    if head.freshness.condemned {
        status.ttl = status.ttl.map(|ttl| ttl.min(0));
    }
    status.write(response.headers_mut());
    let asks = !client.fields.is_empty();
    if asks && s4_3_2_is_known(&client.fields, head.status, &head.headers) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        without_content(response.headers_mut());
        return Some(response);
    }
    if client.head {
        return Some(response);
    }
    if let Content::Whole(bytes) = content
        && client.ranged
        && head.status == StatusCode::OK
    {
        partial(client, head, bytes, &mut response);
    } else {
        *response.body_mut() = content.body()?;
    }
    Some(response)
}

/// RFC 9110 §14: the part that the client wants, if it can be had.
fn partial(client: &Client, head: &Head, bytes: &Bytes, response: &mut Response<Body>) {
    let length = bytes.len() as u64;
    let (status, shown, body) = match range(&client.fields, &head.headers, length) {
        Part::Whole => {
            *response.body_mut() = bytes.clone().into();
            return;
        }
        Part::Unsatisfiable => {
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            (status, format!("bytes */{length}"), Bytes::new())
        }
        Part::Of(first, last) => {
            let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX).min(bytes.len());
            let body = bytes.slice(at(first)..at(last + 1));
            (StatusCode::PARTIAL_CONTENT, format!("bytes {first}-{last}/{length}"), body)
        }
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Ok(shown) = HeaderValue::try_from(shown) {
        headers.insert(header::CONTENT_RANGE, shown);
    }
    *response.body_mut() = body.into();
}

/// RFC 9110 §15.4.5: what a 304 has no use for.
fn without_content(headers: &mut HeaderMap) {
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_LANGUAGE,
        header::CONTENT_RANGE,
    ] {
        headers.remove(name);
    }
}
