//! A way in for the fuzz targets.

use http::{HeaderMap, Method, Request, Response};

use super::head;
use crate::body::Body;
use crate::budget::Budget;
use crate::http1::Inbox;
use crate::http1::fuzz::Framed;

/// What a response's head was taken for.
#[derive(Debug)]
pub struct ResponseHead {
    /// The response without its body.
    pub response: Response<()>,
    /// How its body is read.
    pub framed: Framed,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// What follows the head.
    pub rest: Vec<u8>,
}

/// Takes the head of a response that comes in `pieces`; `None` if it is not whole.
///
/// # Errors
///
/// The name of what makes it malformed.
pub fn response_head(pieces: &[&[u8]], method: &Method) -> Result<Option<ResponseHead>, String> {
    let mut inbox = Inbox::new(Budget::unlimited());
    let mut pieces = pieces.iter();
    let head = pieces.find_map(|piece| {
        inbox.bytes.extend_from_slice(piece);
        head::take(&mut inbox, method, HeaderMap::new).transpose()
    });
    let head = head.transpose().map_err(|invalid| invalid.to_string())?;
    pieces.for_each(|piece| inbox.bytes.extend_from_slice(piece));
    Ok(head.map(|head| ResponseHead {
        framed: Framed::from(&head.body),
        response: head.response,
        keep_alive: head.keep_alive,
        rest: inbox.bytes.to_vec(),
    }))
}

/// The head of a request as an origin is sent it.
#[must_use]
pub fn write_request(request: &Request<Body>) -> Vec<u8> {
    let mut out = Vec::new();
    let _framing = head::write(request, &mut out);
    out
}
