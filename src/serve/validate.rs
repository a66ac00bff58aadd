//! Refuses what no origin should see.
//!
//! The request has been parsed; this looks at what a parser does not judge:
//! whether host, target and framing mean one thing only. The rules for targets
//! are in `target`, those for hosts in `authority`.
//!
//! **What stands before this.** Over HTTP/1.1 a head that could be read in two
//! ways has been refused by then, and the body is framed anew towards the
//! origin. What a request is to be answered with that could not be read comes
//! along as [`Refused`]. An embedder's server may be more lenient: so framing and
//! host are looked at here as well.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use tower::{Layer, Service};

use super::{authority, options, target};
use crate::context::{Downstream, Exchange, HeadLimits};
use crate::layers::{ShortCircuit, are_twins};
use crate::respond::{Answer, Format};

/// What a request that could not be read is answered with: it is among the
/// extensions of one that stands for it, so that it is logged and counted as any.
#[derive(Clone, Debug)]
pub(super) struct Refused(pub(super) Answer);

/// Puts [`Validate`] before a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct ValidateLayer;

/// Refuses requests that could mean two things.
#[derive(Clone, Debug)]
pub struct Validate<S> {
    inner: S,
}

impl<S> Layer<S> for ValidateLayer {
    type Service = Validate<S>;

    fn layer(&self, inner: S) -> Validate<S> {
        Validate { inner }
    }
}

impl<S, B, ResB> Service<Request<B>> for Validate<S>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    ResB: From<Bytes>,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = ShortCircuit<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let checked = match request.extensions_mut().remove::<Refused>() {
            Some(Refused(answer)) => Err(answer),
            None => check(&mut request).and_then(|()| options::answer(&mut request)),
        };
        match checked {
            Ok(None) => ShortCircuit::forwarded(self.inner.call(request)),
            Ok(Some(response)) => ShortCircuit::rejected(response),
            Err(answer) => {
                if let Some(exchange) = request.extensions().get::<Exchange>() {
                    exchange.update(|record| record.rejection = Some(answer.code()));
                }
                ShortCircuit::rejected(answer.render(Format::preferred(request.headers())))
            }
        }
    }
}

pub(super) fn refuse(status: StatusCode, code: &'static str, detail: &'static str) -> Answer {
    Answer::new(status, code, detail).proxy_error("http_request_error")
}

pub(super) fn malformed(code: &'static str, detail: &'static str) -> Answer {
    refuse(StatusCode::BAD_REQUEST, code, detail).close()
}

fn check<B>(request: &mut Request<B>) -> Result<(), Answer> {
    as_asked_for(request);
    let downstream = request.extensions().get::<Arc<Downstream>>().map(|d| &**d);
    let limits = downstream.map_or_else(HeadLimits::default, |downstream| downstream.limits);
    let exchange = request.extensions().get::<Exchange>();
    let fields =
        exchange.map_or_else(|| request.headers().len(), |exchange| exchange.request().fields);
    if fields > limits.max_fields {
        // Over HTTP/1.1 the parser has counted already.
        let (status, code) = (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_fields");
        return Err(refuse(status, code, "The request has too many fields."));
    }
    if matches!(request.version(), Version::HTTP_2 | Version::HTTP_3) {
        super::http2::request::check(request)
            .map_err(|(code, detail)| refuse(StatusCode::BAD_REQUEST, code, detail))?;
    }
    method(request.method())?;
    target::check(request, downstream, limits.max_target)?;
    framing(request)?;
    if let Some(host) = authority::check(request, downstream)? {
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

/// RFC 8441 §5: an extended CONNECT asks for what a GET with `Upgrade` does, and
/// is treated as one from here on. Its `:protocol` stays beside it.
fn as_asked_for<B>(request: &mut Request<B>) {
    if *request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_some() {
        *request.method_mut() = Method::GET;
    }
}

fn method(method: &Method) -> Result<(), Answer> {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        let code = "method_refused";
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, code, "This method is not served.")
            .header(header::ALLOW, options::ALLOW));
    }
    Ok(())
}

fn framing<B>(request: &Request<B>) -> Result<(), Answer> {
    let headers = request.headers();
    // Most requests have neither, which one walk past their names tells.
    let mut framed = false;
    for name in headers.keys() {
        if *name == header::TRANSFER_ENCODING || *name == header::CONTENT_LENGTH {
            framed = true;
        } else if is_like_framing(name.as_str()) {
            let detail = "A field's name is one of those that frame a message, misspelt.";
            return Err(malformed("framing_invalid", detail));
        }
    }
    if !framed {
        return Ok(());
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if request.version() != Version::HTTP_11 {
            return Err(malformed(
                "framing_invalid",
                "`Transfer-Encoding` belongs to HTTP/1.1 only.",
            ));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            let detail = "The only transfer coding that is understood is `chunked`.";
            return Err(refuse(StatusCode::NOT_IMPLEMENTED, "framing_invalid", detail).close());
        }
        if headers.contains_key(header::CONTENT_LENGTH) {
            let detail = "`Content-Length` and `Transfer-Encoding` exclude each other.";
            return Err(malformed("framing_invalid", detail));
        }
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if lengths.next().is_some() || !digits {
            return Err(malformed("framing_invalid", "`Content-Length` is not one number."));
        }
    }
    Ok(())
}

/// Whether an origin may take a field, in lower case, for one that frames.
fn is_like_framing(name: &str) -> bool {
    matches!(name.as_bytes(), [b't' | b'c', ..])
        && (are_twins(name, "transfer-encoding") || are_twins(name, "content-length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn status(uri: &str, fields: &[(&str, &str)]) -> u16 {
        status_of(request(uri, fields))
    }

    fn status_of(mut request: Request<()>) -> u16 {
        let limits = HeadLimits { max_target: 1024, max_fields: 3 };
        let downstream = Downstream { limits, ..Downstream::default() };
        request.extensions_mut().insert(Arc::new(downstream));
        check(&mut request).err().map_or(200, |answer| answer.status().as_u16())
    }

    const HOST: (&str, &str) = ("host", "a.test");

    #[test]
    fn framing_must_mean_one_thing() {
        assert_eq!(status("/", &[HOST, ("transfer-encoding", "chunked")]), 200);
        assert_eq!(status("/", &[HOST, ("transfer-encoding", "gzip, chunked")]), 501);
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(status("/", &[HOST, chunked, chunked]), 501);
        assert_eq!(status("/", &[HOST, chunked, ("content-length", "3")]), 400);
        for length in ["", "+3", "-1", "0x3", "3,3", "3 3", "1_0"] {
            assert_eq!(status("/", &[HOST, ("content-length", length)]), 400, "{length:?}");
        }
        for twin in ["content_length", "transfer_encoding", "transfer.encoding"] {
            assert_eq!(status("/", &[HOST, (twin, "3")]), 400, "{twin}");
        }
        assert_eq!(status("/", &[HOST, ("content-lengths", "3")]), 200);
        let three = ("content-length", "3");
        assert_eq!(status("/", &[HOST, three, three]), 400);
    }

    #[test]
    fn what_is_wrong_with_target_or_host_is_refused() {
        assert_eq!(status("/a/../b", &[HOST]), 400);
        assert_eq!(status("/", &[]), 400);
        assert_eq!(status("/", &[HOST, HOST]), 400);
    }

    #[test]
    fn methods_and_targets_that_are_not_served_are_refused() {
        let with = |method: Method, uri: &str| {
            let mut request = request(uri, &[HOST]);
            *request.method_mut() = method;
            status_of(request)
        };
        assert_eq!(with(Method::TRACE, "/"), 405);
        assert_eq!(with(Method::CONNECT, "a.test:443"), 405);
        assert_eq!(with(Method::OPTIONS, "*"), 200);
        assert_eq!(with(Method::GET, "*"), 400);
        assert_eq!(status(&format!("/{}", "x".repeat(1024)), &[HOST]), 414);
        let field = ("x", "y");
        assert_eq!(status("/", &[HOST, field, field]), 200);
        assert_eq!(status("/", &[HOST, field, field, field]), 431);
    }
}
