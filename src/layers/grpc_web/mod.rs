//! gRPC-Web for origins that speak gRPC.
//!
//! Browsers can read no trailers, and some can read no binary responses. In
//! gRPC-Web the trailers are the last frame of the body, and all of it may be in
//! Base64. Preflights of CORS are not answered here.

mod base64;
mod body;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::body::{Decoded, Encoded};
use crate::body::Body;
use crate::respond::{Format, GRPC_MESSAGE, GRPC_STATUS};

/// More of the status, in the trailers.
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Puts [`GrpcWeb`] before a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcWebLayer;

/// Makes gRPC calls of gRPC-Web calls, and gRPC-Web responses of the responses.
/// Other requests pass.
#[derive(Clone, Debug)]
pub struct GrpcWeb<S> {
    inner: S,
}

impl<S> Layer<S> for GrpcWebLayer {
    type Service = GrpcWeb<S>;

    fn layer(&self, inner: S) -> GrpcWeb<S> {
        GrpcWeb { inner }
    }
}

impl<S> Service<Request<Body>> for GrpcWeb<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = GrpcWebFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let call = request.headers().get(header::CONTENT_TYPE).and_then(Format::of_call);
        let text = match call {
            Some(Format::GrpcWeb) => false,
            Some(Format::GrpcWebText) => true,
            _ => return GrpcWebFuture { inner: self.inner.call(request), answer_in_text: None },
        };
        if *request.method() != Method::POST {
            return GrpcWebFuture { inner: self.inner.call(request), answer_in_text: None };
        }
        let headers = request.headers_mut();
        let answer_in_text = accepts_text(headers).unwrap_or(text);
        retype(headers, "");
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if text {
            headers.remove(header::CONTENT_LENGTH);
            request = request.map(|body| match body.is_end_stream() {
                true => body,
                false => Body::new(Decoded::new(body)),
            });
        }
        GrpcWebFuture { inner: self.inner.call(request), answer_in_text: Some(answer_in_text) }
    }
}

/// Whether the caller wants Base64, if it says.
fn accepts_text(headers: &HeaderMap) -> Option<bool> {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    ranges.flat_map(|line| line.split(',')).find_map(|range| {
        let range = HeaderValue::from_str(range.trim()).ok()?;
        match Format::of_call(&range)? {
            Format::GrpcWeb => Some(false),
            Format::GrpcWebText => Some(true),
            _ => None,
        }
    })
}

/// Names the protocol in `Content-Type` anew, and keeps the format of messages.
fn retype(headers: &mut HeaderMap, protocol: &str) {
    let format = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = format.and_then(|text| text.split_once('+')).map_or("proto", |(_, format)| format);
    if let Ok(value) = HeaderValue::try_from(format!("application/grpc{protocol}+{format}")) {
        headers.insert(header::CONTENT_TYPE, value);
    }
}

pin_project! {
    /// The response of [`GrpcWeb`] on its way.
    #[derive(Debug)]
    pub struct GrpcWebFuture<F> {
        #[pin]
        inner: F,
        answer_in_text: Option<bool>,
    }
}

impl<F, E> Future for GrpcWebFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match *this.answer_in_text {
            Some(text) => translated(response, text),
            None => response,
        }))
    }
}

/// A gRPC response as one of gRPC-Web; whatever else it is stays as it is.
fn translated(mut response: Response<Body>, text: bool) -> Response<Body> {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    if content_type.and_then(Format::of_call) != Some(Format::Grpc) {
        return response;
    }
    let headers = response.headers_mut();
    retype(headers, if text { "-web-text" } else { "-web" });
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRAILER);
    let mut trailers = HeaderMap::new();
    for name in [GRPC_STATUS, GRPC_MESSAGE, GRPC_STATUS_DETAILS] {
        if let Some(value) = headers.remove(&name) {
            trailers.insert(name, value);
        }
    }
    let trailers = (!trailers.is_empty()).then_some(trailers);
    response.map(|body| Body::new(Encoded::new(body, text, trailers)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;
    use tower::ServiceExt;

    fn frames(frames: Vec<Frame<Bytes>>) -> Body {
        let frames = frames.into_iter().map(Ok::<_, Infallible>);
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    /// Calls an origin that sends back what it got, and the status 5 behind it.
    async fn call(
        content_type: &str,
        accept: Option<&str>,
        body: &'static str,
    ) -> (HeaderMap, Vec<u8>) {
        let origin = |request: Request<Body>| async move {
            let (parts, body) = request.into_parts();
            assert_eq!(parts.headers["te"], "trailers");
            let got = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let trailers = [(GRPC_STATUS, HeaderValue::from_static("5"))].into_iter().collect();
            let body = frames(vec![Frame::data(got), Frame::trailers(trailers)]);
            let content_type = parts.headers["content-type"].clone();
            Response::builder()
                .header("content-type", content_type)
                .body(body)
                .map_err(|error| error.to_string())
        };
        let mut request = Request::post("/x.Y/Z").header("content-type", content_type);
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let request = request.body(Body::from(body)).unwrap();
        let response = GrpcWebLayer.layer(tower::service_fn(origin)).oneshot(request).await;
        let (parts, body) = response.unwrap().into_parts();
        (parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    const TRAILERS: &[u8] = b"\x80\0\0\0\x0fgrpc-status:5\r\n";

    #[tokio::test]
    async fn trailers_are_the_last_frame_of_the_body() {
        let (headers, body) = call("application/grpc-web+proto", None, "abc").await;
        assert_eq!(headers["content-type"], "application/grpc-web+proto");
        assert_eq!(body, [b"abc", TRAILERS].concat());
    }

    #[tokio::test]
    async fn text_is_decoded_and_encoded() {
        let (headers, body) = call("application/grpc-web-text", None, "YWJj").await;
        assert_eq!(headers["content-type"], "application/grpc-web-text+proto");
        let mut decoder = base64::Decoder::default();
        assert_eq!(decoder.decode(&body).unwrap(), [b"abc", TRAILERS].concat());
    }

    #[tokio::test]
    async fn the_answer_is_in_what_is_accepted() {
        let accept = Some("application/grpc-web+proto");
        let (headers, body) = call("application/grpc-web-text+proto", accept, "YWJj").await;
        assert_eq!(headers["content-type"], "application/grpc-web+proto");
        assert_eq!(body, [b"abc", TRAILERS].concat());
    }

    #[test]
    fn a_status_in_the_head_becomes_the_last_frame() {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "12")
            .header("x-other", "stays")
            .body(Body::empty())
            .unwrap();
        let response = translated(response, false);
        assert!(!response.headers().contains_key("grpc-status"));
        assert_eq!(response.headers()["x-other"], "stays");
        assert!(!response.body().is_end_stream());
    }

    #[test]
    fn what_is_no_grpc_stays_as_it_is() {
        let response = Response::builder().header("content-type", "text/html");
        let response = translated(response.body(Body::from("x")).unwrap(), true);
        assert_eq!(response.headers()["content-type"], "text/html");
        assert_eq!(response.body().size_hint().exact(), Some(1));
    }
}
