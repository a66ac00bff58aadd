//! Every response that Tollgate makes itself.
//!
//! An [`Answer`] is a status with what belongs to it; [`Answer::render`] writes
//! it in the form the client asked for: problem details (RFC 9457), HTML, or a
//! gRPC status. What went wrong inside stays in the log: the client is told the
//! class of the fault and, in `Proxy-Status` (RFC 9209), where it lay.

use std::borrow::Cow;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::error::{Error, Kind};

/// `Proxy-Status` (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The status of a gRPC call, in its trailers.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The words to a gRPC status, percent-encoded.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What is percent-encoded in a `grpc-message`, besides all that is not ASCII.
const IN_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// The name Tollgate goes by in `Server`, `Via` and `Proxy-Status`.
pub const PRODUCT: &str = "tollgate";

/// A response of Tollgate's own, not yet written in any format.
#[derive(Clone, Debug)]
pub struct Answer {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    proxy_error: Option<&'static str>,
    retry_after: Option<Duration>,
    close: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// How an [`Answer`] is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// `application/problem+json` (RFC 9457).
    #[default]
    Problem,
    /// A small page for people.
    Html,
    /// One line of plain text.
    Text,
    /// `grpc-status` in a response without a body ("Trailers-Only").
    Grpc,
    /// The same for gRPC-Web, which has its trailers at the end of the body.
    GrpcWeb,
    /// The same in Base64.
    GrpcWebText,
}

impl Format {
    /// The format that suits the sender of a request with these fields.
    #[must_use]
    pub fn preferred(request: &HeaderMap) -> Self {
        Self::of(request.get(header::ACCEPT), request.get(header::CONTENT_TYPE))
    }

    /// The format that suits the sender of a request with this `Accept` and this
    /// `Content-Type`.
    #[must_use]
    pub fn of(accept: Option<&HeaderValue>, content_type: Option<&HeaderValue>) -> Self {
        if let Some(grpc) = content_type.and_then(Self::of_call) {
            return grpc;
        }
        let accept = accept.and_then(|value| value.to_str().ok());
        // The first type named that we can write wins: browsers put text/html
        // first, and nobody weights error pages.
        for range in accept.unwrap_or_default().split(',') {
            match range.split(';').next().unwrap_or_default().trim() {
                "text/html" => return Self::Html,
                "text/plain" => return Self::Text,
                "application/json" | "application/problem+json" | "*/*" => return Self::Problem,
                _ => {}
            }
        }
        Self::Problem
    }

    /// The format of the gRPC call that a request with this `Content-Type` is.
    #[must_use]
    pub fn of_call(content_type: &HeaderValue) -> Option<Self> {
        const GRPC: &[u8] = b"application/grpc";
        let (start, rest) = content_type.as_bytes().split_at_checked(GRPC.len())?;
        if !start.eq_ignore_ascii_case(GRPC) {
            return None;
        }
        // The message format follows, as in `+proto`.
        let end = rest.iter().position(|byte| matches!(byte, b'+' | b';' | b' ' | b'\t'));
        match rest[..end.unwrap_or(rest.len())].to_ascii_lowercase().as_slice() {
            b"" => Some(Self::Grpc),
            b"-web" => Some(Self::GrpcWeb),
            b"-web-text" => Some(Self::GrpcWebText),
            _ => None,
        }
    }

    fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb | Self::GrpcWebText)
    }
}

/// How a trailer frame of gRPC-Web begins; its length follows in four bytes.
pub const TRAILER_FRAME: u8 = 0x80;

impl Answer {
    /// An answer with this status; `code` is one word that names the reason for
    /// programs, `detail` a sentence for people.
    #[must_use]
    pub fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            proxy_error: None,
            retry_after: None,
            close: false,
            headers: Vec::new(),
        }
    }

    /// The answer that a failed exchange is owed.
    #[must_use]
    pub fn for_error(error: &Error) -> Self {
        let (status, detail, proxy_error) = describe(error.kind());
        let mut answer = Self::new(status, error.kind().as_str(), detail);
        answer.proxy_error = Some(proxy_error);
        if matches!(error.kind(), Kind::NoOrigin | Kind::Overloaded) {
            answer.retry_after = Some(Duration::from_secs(5));
        }
        // The rest of a body that was not read may still be on its way.
        answer.close = matches!(
            error.kind(),
            Kind::RequestInvalid
                | Kind::RequestBodyTooLarge
                | Kind::RequestBodyTimeout
                | Kind::RequestBodyAborted
        );
        answer
    }

    /// Adds `Retry-After`, rounded up to whole seconds and never 0.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Names the fault in `Proxy-Status`, with a type of RFC 9209 §2.3.
    #[must_use]
    pub fn proxy_error(mut self, error: &'static str) -> Self {
        self.proxy_error = Some(error);
        self
    }

    /// Ends the connection after this answer (HTTP/1.1).
    #[must_use]
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason as one word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Writes the response.
    pub fn render<B: From<Bytes>>(self, format: Format) -> Response<B> {
        let (content_type, body) = self.write(format);
        let mut response = Response::new(B::from(body));
        *response.status_mut() = if format.is_grpc() { StatusCode::OK } else { self.status };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if format == Format::Grpc {
            self.grpc_trailers(headers);
        }
        if let Some(error) = self.proxy_error
            && let Ok(value) = HeaderValue::try_from(format!("{PRODUCT}; error={error}"))
        {
            headers.insert(PROXY_STATUS, value);
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }

    /// The status as the trailers of a gRPC call.
    pub fn grpc_trailers(&self, trailers: &mut HeaderMap) {
        trailers.insert(GRPC_STATUS, HeaderValue::from(grpc_status(self.status)));
        let message = utf8_percent_encode(&self.detail, IN_MESSAGE).to_string();
        if let Ok(message) = HeaderValue::try_from(message) {
            trailers.insert(GRPC_MESSAGE, message);
        }
    }

    /// The status as the trailer frame of a gRPC-Web call.
    fn trailer_frame(&self) -> Vec<u8> {
        let (status, message) = (grpc_status(self.status), &self.detail);
        let message = utf8_percent_encode(message, IN_MESSAGE);
        let trailers = format!("grpc-status:{status}\r\ngrpc-message:{message}\r\n");
        // What we say of ourselves is short.
        let length = u32::try_from(trailers.len()).unwrap_or(u32::MAX);
        [&[TRAILER_FRAME][..], &length.to_be_bytes(), trailers.as_bytes()].concat()
    }

    fn write(&self, format: Format) -> (&'static str, Bytes) {
        let (status, code, detail) = (self.status, self.code, &self.detail);
        let title = status.canonical_reason().unwrap_or("Error");
        match format {
            Format::Grpc => ("application/grpc", Bytes::new()),
            Format::GrpcWeb => ("application/grpc-web+proto", self.trailer_frame().into()),
            Format::GrpcWebText => {
                let frame = BASE64_STANDARD.encode(self.trailer_frame());
                ("application/grpc-web-text+proto", frame.into())
            }
            Format::Text => ("text/plain; charset=utf-8", format!("{detail}\n").into()),
            Format::Problem => {
                let problem = serde_json::json!({
                    "type": "about:blank",
                    "title": title,
                    "status": status.as_u16(),
                    "detail": detail,
                    "code": code,
                });
                ("application/problem+json", format!("{problem}\n").into())
            }
            Format::Html => {
                let number = status.as_u16();
                let page = format!(
                    "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
                     <meta name=viewport content=\"width=device-width\">\n\
                     <title>{number} {title}</title>\n\
                     <style>body{{font:16px/1.5 system-ui,sans-serif;margin:20vh auto;\
                     max-width:36em;padding:0 1em;color:#222}}h1{{font-size:1.4em}}\
                     footer{{color:#767676;font-size:.85em}}</style>\n\
                     <h1>{number} {title}</h1>\n<p>{}</p>\n<footer>{PRODUCT}</footer>\n",
                    escape_html(detail),
                );
                ("text/html; charset=utf-8", page.into())
            }
        }
    }
}

/// Seconds as `Retry-After` takes them: rounded up, at least one, so that a
/// client that waits as told is not turned away again.
#[must_use]
pub fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Status, words for the client, and the error type of RFC 9209 §2.3.
#[allow(clippy::too_many_lines, reason = "one table, a row for each kind")]
fn describe(kind: Kind) -> (StatusCode, &'static str, &'static str) {
    match kind {
        Kind::RequestInvalid => {
            (StatusCode::BAD_REQUEST, "The request is malformed.", "http_request_error")
        }
        Kind::RequestBodyTooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "The request's body is larger than is accepted here.",
            "http_request_error",
        ),
        Kind::RequestBodyTimeout => (
            StatusCode::REQUEST_TIMEOUT,
            "The request's body did not arrive in time.",
            "http_request_error",
        ),
        Kind::RequestBodyAborted => (
            StatusCode::BAD_REQUEST,
            "The request's body ended before it was whole.",
            "http_request_error",
        ),
        Kind::Overloaded => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The service is carrying as much as it can.",
            "connection_limit_reached",
        ),
        Kind::NoOrigin => (
            StatusCode::SERVICE_UNAVAILABLE,
            "No server is available to answer this request.",
            "destination_unavailable",
        ),
        Kind::DnsFailed => {
            (StatusCode::BAD_GATEWAY, "The server's name could not be resolved.", "dns_error")
        }
        Kind::DnsTimeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "The server's name was not resolved in time.",
            "dns_timeout",
        ),
        Kind::ConnectRefused => {
            (StatusCode::BAD_GATEWAY, "The server could not be reached.", "connection_refused")
        }
        Kind::ConnectTimeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "The server did not accept the connection in time.",
            "connection_timeout",
        ),
        Kind::TlsCertificate => (
            StatusCode::BAD_GATEWAY,
            "The server's identity could not be verified.",
            "tls_certificate_error",
        ),
        Kind::TlsProtocol => (
            StatusCode::BAD_GATEWAY,
            "No secure connection to the server could be made.",
            "tls_protocol_error",
        ),
        Kind::ConnectionTerminated => (
            StatusCode::BAD_GATEWAY,
            "The server ended the connection without an answer.",
            "connection_terminated",
        ),
        Kind::ResponseTimeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "The server did not answer in time.",
            "http_response_timeout",
        ),
        Kind::ResponseBodyTimeout | Kind::ResponseIncomplete => (
            StatusCode::BAD_GATEWAY,
            "The server's answer ended before it was whole.",
            "http_response_incomplete",
        ),
        Kind::ResponseInvalid => {
            (StatusCode::BAD_GATEWAY, "The server's answer is malformed.", "http_protocol_error")
        }
        Kind::UpgradeFailed => (
            StatusCode::BAD_GATEWAY,
            "The server did not switch protocols as it should have.",
            "http_upgrade_failed",
        ),
        Kind::Loop => (
            StatusCode::LOOP_DETECTED,
            "The request has come back to a proxy it already passed.",
            "proxy_loop_detected",
        ),
        Kind::Internal => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "Something went wrong inside the proxy.",
            "proxy_internal_error",
        ),
    }
}

/// The gRPC status that stands for an HTTP status, after the table of
/// "HTTP to gRPC Status Code Mapping" in the gRPC project, but for what a limit has refused.
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        408 | 504 => 4,
        // Not 14, which clients take for a reason to try again by themselves.
        413 | 429 | 431 => 8,
        502 | 503 => 14,
        _ => 2,
    }
}

fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(100)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
        assert_eq!(whole_seconds(Duration::from_secs(7)), 7);
    }

    #[test]
    fn the_format_follows_what_the_client_accepts() {
        assert_eq!(Format::preferred(&accepting("text/html,application/xml;q=0.9")), Format::Html);
        assert_eq!(Format::preferred(&accepting("application/json")), Format::Problem);
        assert_eq!(Format::preferred(&HeaderMap::new()), Format::Problem);
        let grpc = HeaderValue::from_static("application/grpc+proto");
        let grpc = HeaderMap::from_iter([(header::CONTENT_TYPE, grpc)]);
        assert_eq!(Format::preferred(&grpc), Format::Grpc);
    }

    #[test]
    fn a_call_is_told_by_its_whole_type() {
        let call = |text: &'static str| Format::of_call(&HeaderValue::from_static(text));
        assert_eq!(call("application/grpc"), Some(Format::Grpc));
        assert_eq!(call("Application/gRPC; x=y"), Some(Format::Grpc));
        assert_eq!(call("application/grpc-web+proto"), Some(Format::GrpcWeb));
        assert_eq!(call("application/grpc-web-text"), Some(Format::GrpcWebText));
        for other in ["application/grp", "application/grpcs", "application/grpc-webs", "text/html"]
        {
            assert_eq!(call(other), None, "{other}");
        }
    }

    #[test]
    fn a_grpc_answer_has_its_status_where_the_call_looks_for_it() {
        let answer = || Answer::new(StatusCode::NOT_FOUND, "x", "100 % käse\n");
        let response: Response<Bytes> = answer().render(Format::Grpc);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[GRPC_STATUS], "12");
        assert_eq!(response.headers()[GRPC_MESSAGE], "100 %25 k%C3%A4se%0A");
        assert!(response.body().is_empty());
        let response: Response<Bytes> = answer().render(Format::GrpcWeb);
        let trailers = b"grpc-status:12\r\ngrpc-message:100 %25 k%C3%A4se%0A\r\n";
        assert_eq!(response.body()[..5], [0x80, 0, 0, 0, 51]);
        assert_eq!(response.body()[5..], trailers[..]);
        assert!(!response.headers().contains_key(GRPC_STATUS));
    }

    #[test]
    fn http_statuses_have_their_grpc_counterparts() {
        let table = [(400, 13), (401, 16), (403, 7), (404, 12), (408, 4), (413, 8), (429, 8)];
        for (http, grpc) in table.into_iter().chain([(500, 2), (502, 14), (503, 14), (504, 4)]) {
            assert_eq!(grpc_status(StatusCode::from_u16(http).unwrap()), grpc, "{http}");
        }
    }

    #[test]
    fn a_page_cannot_be_injected_into() {
        let answer = Answer::new(StatusCode::NOT_FOUND, "x", "<script>alert(1)</script>");
        let response: Response<Bytes> = answer.render(Format::Html);
        let page = std::str::from_utf8(response.body()).unwrap();
        assert!(!page.contains("<script>"), "{page}");
    }

    #[test]
    fn every_upstream_fault_names_its_type() {
        let answer = Answer::for_error(&Error::new(Kind::ConnectTimeout));
        let response: Response<Bytes> = answer.render(Format::Problem);
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(response.headers()[PROXY_STATUS], "tollgate; error=connection_timeout");
    }
}
