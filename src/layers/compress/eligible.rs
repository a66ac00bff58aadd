//! Whether a response is compressed, and how.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};

use super::accept::Accepted;
use super::{CompressionSettings, ContentCoding};
use crate::budget::Budget;
use crate::context::{ByCredentials, Exchange};
use crate::layers::list_members;
use crate::observe::CompressionOutcome as Outcome;

/// What of a request decides about its response.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) accepted: Accepted,
    pub(super) head: bool,
    /// It asks for a part.
    ranged: bool,
    /// It says who asks.
    credentials: bool,
    /// Its `If-None-Match`, if there is a weak tag in it.
    pub(super) known: Vec<HeaderValue>,
    /// Where memory comes from.
    pub(super) budget: Option<Budget>,
}

/// What becomes of a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It is the same whatever is accepted.
    Same(Outcome),
    /// It stays as it is, but would have been another for other clients.
    Varies(Outcome),
    /// It gets the first of the accepted codings for which there is room.
    Compress,
}

/// Whether requests such as this one are about content that may be compressed.
pub(super) fn is_about_content<B>(request: &Request<B>) -> bool {
    // What follows a CONNECT is a tunnel. Calls of gRPC negotiate among themselves.
    let grpc =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()));
    *request.method() != Method::CONNECT && !grpc
}

/// What a request takes of what is offered. A part is asked for of the content as it is:
/// what is made anew for each client has no parts that fit one another.
pub(super) fn accepted(headers: &HeaderMap, settings: &CompressionSettings) -> Accepted {
    if headers.contains_key(header::RANGE) {
        return Accepted::default();
    }
    Accepted::of(headers, &settings.codings)
}

impl Asked {
    /// `vouched` are fields that are the operator's.
    pub(super) fn of<B>(request: &Request<B>, accepted: Accepted, vouched: &[HeaderName]) -> Self {
        let headers = request.headers();
        let own = |name: &HeaderName| headers.contains_key(name) && !vouched.contains(name);
        let exchange = request.extensions().get::<Exchange>();
        let identified = ByCredentials::let_in(request.extensions());
        let known = headers.get_all(header::IF_NONE_MATCH).iter();
        let weak = |value: &&HeaderValue| value.as_bytes().windows(2).any(|pair| pair == b"W/");
        Self {
            accepted,
            head: *request.method() == Method::HEAD,
            ranged: headers.contains_key(header::RANGE),
            credentials: identified || own(&header::AUTHORIZATION) || own(&header::COOKIE),
            known: known.filter(weak).cloned().collect(),
            budget: exchange.map(|exchange| exchange.downstream().budget.clone()),
        }
    }

    /// Decides about a response whose content has `length` bytes, if that is known.
    pub(super) fn judge(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
        settings: &CompressionSettings,
    ) -> Verdict {
        if !has_content(status) {
            return Verdict::Same(Outcome::Status);
        }
        if is_encoded(headers) {
            // Whether its origin says so or not, other clients may get another.
            return Verdict::Varies(Outcome::Encoded);
        }
        let control = Control::of(headers);
        if control.no_transform {
            return Verdict::Same(Outcome::NoTransform);
        }
        if !is_compressible(headers, settings) {
            return Verdict::Same(Outcome::Type);
        }
        let part =
            status == StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_RANGE);
        if part || self.ranged {
            return Verdict::Varies(Outcome::Range);
        }
        match length {
            Some(0) => return Verdict::Same(Outcome::Short),
            Some(length) if length < settings.min_length && !self.accepted.identity_refused => {
                return Verdict::Same(Outcome::Short);
            }
            _ => {}
        }
        let said =
            control.public || (control.s_maxage && !headers.contains_key(header::SET_COOKIE));
        let for_all = said && !control.closed;
        let secret = self.credentials || headers.contains_key(header::SET_COOKIE);
        if secret && !for_all && !settings.with_credentials {
            return Verdict::Varies(Outcome::Credentials);
        }
        if self.accepted.is_empty() || !ContentCoding::AVAILABLE {
            return Verdict::Varies(Outcome::NotAccepted);
        }
        if self.head && length.is_none() {
            return Verdict::Varies(Outcome::Head);
        }
        Verdict::Compress
    }
}

/// RFC 9110 §6.4.1 and §15: whether a response of this status has content that is
/// about its target.
fn has_content(status: StatusCode) -> bool {
    !status.is_informational()
        && !matches!(
            status,
            StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::NOT_MODIFIED
                | StatusCode::IM_USED
                | StatusCode::RANGE_NOT_SATISFIABLE
        )
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut codings = lines.flat_map(|line| list_members(line.as_bytes()));
    codings.any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    content_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
}

fn is_compressible(headers: &HeaderMap, settings: &CompressionSettings) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return false };
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii();
    // Each event has to be there when it happens, and a call's messages have codings of
    // their own.
    if essence.eq_ignore_ascii_case(b"text/event-stream") || is_grpc(essence) {
        return false;
    }
    let Ok(essence) = std::str::from_utf8(essence) else { return false };
    settings.types.iter().any(|pattern| pattern.matches(essence))
}

/// What `Cache-Control` says that matters here.
#[derive(Clone, Copy, Debug, Default)]
struct Control {
    no_transform: bool,
    public: bool,
    s_maxage: bool,
    /// It is for one client, or for none to keep, whatever else is said.
    closed: bool,
}

impl Control {
    fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            for member in list_members(line.as_bytes()) {
                let name = member.split(|byte| *byte == b'=').next().unwrap_or_default();
                let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
                control.no_transform |= is("no-transform");
                // What opens something means it without an argument only.
                control.public |= member.eq_ignore_ascii_case(b"public");
                control.s_maxage |= is("s-maxage");
                control.closed |= is("private") || is("no-store");
            }
        }
        control
    }
}

#[cfg(test)]
mod tests;
