//! From a stored response to the answer to one client.

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
        let mut fields = HeaderMap::new();
        // One walk past all fields, of which most requests have none of these.
        for (name, value) in request.headers() {
            if matches!(
                *name,
                header::IF_NONE_MATCH
                    | header::IF_MODIFIED_SINCE
                    | header::RANGE
                    | header::IF_RANGE
            ) {
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

    /// What it would have of a body of so many bytes first; `None` if nothing.
    pub(super) fn begins_at(&self, head: &Head, length: u64) -> Option<u64> {
        let known = s4_3_2_is_known(&self.fields, head.status, &head.headers);
        if self.head || known || length == 0 {
            return None;
        }
        if !self.ranged || head.status != StatusCode::OK {
            return Some(0);
        }
        match range(&self.fields, &head.headers, length) {
            Part::Whole => Some(0),
            Part::Of(first, _) => Some(first),
            Part::Unsatisfiable => None,
        }
    }
}

/// Answers with what is stored; `None` if the body's beginning is gone.
pub(super) fn answer(
    client: &Client,
    head: &Head,
    content: &Content,
    status: Status,
) -> Option<Response<Body>> {
    answer_at(client, head, content, status, Instant::now())
}

/// The same, at a moment that is known.
pub(super) fn answer_at(
    client: &Client,
    head: &Head,
    content: &Content,
    mut status: Status,
    now: Instant,
) -> Option<Response<Body>> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = head.status;
    *response.headers_mut() = copied(&head.headers);
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
    match content.length() {
        Some(length) if client.ranged && head.status == StatusCode::OK => {
            partial(client, head, content, length, &mut response)?;
        }
        _ => *response.body_mut() = content.body()?,
    }
    Some(response)
}

/// So many fields more have room: age, status, the request's id, one of the operator's.
const MORE_FIELDS: usize = 4;

/// The same fields with room for more: a clone has none, and would be laid out anew.
fn copied(headers: &HeaderMap) -> HeaderMap {
    let mut copied = HeaderMap::with_capacity(headers.len() + MORE_FIELDS);
    for (name, value) in headers {
        copied.append(name.clone(), value.clone());
    }
    copied
}

/// RFC 9110 §14: the part that the client wants, if it can be had.
fn partial(
    client: &Client,
    head: &Head,
    content: &Content,
    length: u64,
    response: &mut Response<Body>,
) -> Option<()> {
    let (status, shown, part) = match range(&client.fields, &head.headers, length) {
        Part::Whole => {
            *response.body_mut() = content.body()?;
            return Some(());
        }
        Part::Unsatisfiable => {
            (StatusCode::RANGE_NOT_SATISFIABLE, format!("bytes */{length}"), 0..0)
        }
        Part::Of(first, last) => {
            let shown = format!("bytes {first}-{last}/{length}");
            (StatusCode::PARTIAL_CONTENT, shown, first..last + 1)
        }
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    if let Ok(shown) = HeaderValue::try_from(shown) {
        headers.insert(header::CONTENT_RANGE, shown);
    }
    *response.body_mut() = content.part(part)?;
    Some(())
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
