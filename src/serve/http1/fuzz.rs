//! A way in for the fuzz targets.

use http::{Method, Request, Response, StatusCode, Version};

use super::head::{self, Facts, Limits};
use super::response;
use crate::body::Body;
use crate::budget::Budget;
use crate::context::HeadLimits;
use crate::http1::Inbox;
use crate::http1::fuzz::Framed;
use crate::serve::validate::Refused;

/// What a request's head was taken for.
#[derive(Debug)]
pub struct RequestHead {
    /// The request without its body, or what stands for one that is refused.
    pub request: Request<Body>,
    /// What it is refused with.
    pub refused: Option<StatusCode>,
    /// How its body is read.
    pub framed: Framed,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// What follows the head.
    pub rest: Vec<u8>,
}

/// Takes the head of a request that comes in `pieces`; `None` if it is not whole.
#[must_use]
pub fn request_head(pieces: &[&[u8]], max_head: usize, more: HeadLimits) -> Option<RequestHead> {
    let limits = Limits { head: max_head, more };
    let mut inbox = Inbox::new(Budget::unlimited());
    let mut pieces = pieces.iter();
    let head = pieces.find_map(|piece| {
        inbox.bytes.extend_from_slice(piece);
        head::take(&mut inbox, limits)
    })?;
    pieces.for_each(|piece| inbox.bytes.extend_from_slice(piece));
    let mut request = head.request;
    let refused = request.extensions_mut().remove::<Refused>();
    Some(RequestHead {
        request,
        refused: refused.map(|Refused(answer)| answer.status()),
        framed: Framed::from(&head.incoming),
        keep_alive: head.facts.keep_alive,
        rest: inbox.bytes.to_vec(),
    })
}

/// The head of a response to a request of this method and version.
#[must_use]
pub fn write_response(response: &Response<Body>, method: &Method, version: Version) -> Vec<u8> {
    let facts = Facts {
        keep_alive: true,
        expects: false,
        upgrade: false,
        trailers: false,
        head: *method == Method::HEAD,
        endless: false,
        version,
    };
    let mut out = Vec::new();
    let _framing = response::write(response, facts, false, &mut out);
    out
}
