//! The bodies of gRPC-Web: the same however they arrive, and what is written in
//! Base64 is read as what it was.
#![no_main]

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use libfuzzer_sys::fuzz_target;
use tollgate::body::Body;
use tollgate::layers::GrpcWebLayer;
use tollgate_fuzz::{at_once, however_cut};
use tower::{Layer, Service, service_fn};

type Frame = http_body::Frame<Bytes>;

const TEXT: &str = "application/grpc-web-text+proto";

fuzz_target!(|bytes: &[u8]| {
    let [whole, single, two] = however_cut(bytes, decoded);
    assert_eq!(whole, single);
    assert_eq!(whole, two);

    let [whole, single, two] = however_cut(bytes, |pieces| answered(pieces, "", true));
    assert_eq!(whole, single);
    assert_eq!(whole, two);
    assert!(whole.starts_with(bytes));
    let trailers = b"\x80\0\0\0\x0fgrpc-status:0\r\n";
    assert_eq!(&whole[bytes.len()..], trailers);
    for ended in [true, false] {
        let plain = answered(&[bytes], "", ended);
        for text in however_cut(bytes, |pieces| answered(pieces, TEXT, ended)) {
            assert!(text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)));
            assert_eq!(decoded(&[&text]).as_ref(), Some(&plain));
        }
    }
});

fn body(pieces: &[&[u8]], trailers: Option<HeaderMap>) -> Body {
    let data = pieces.iter().map(|piece| Frame::data(Bytes::copy_from_slice(piece)));
    let frames: Vec<_> =
        data.chain(trailers.map(Frame::trailers)).map(Ok::<_, Infallible>).collect();
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// What an origin receives of a request in Base64.
fn decoded(pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let received = Mutex::new(None);
    let inner = service_fn(|request: Request<Body>| {
        let collected = at_once(request.into_body().collect());
        *received.lock().unwrap() = collected.ok().map(|body| body.to_bytes().to_vec());
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let request = Request::post("/").header("content-type", TEXT);
    let call = GrpcWebLayer.layer(inner).call(request.body(body(pieces, None)).unwrap());
    let Ok(_response) = at_once(call);
    received.into_inner().unwrap()
}

/// What a caller receives of a response, with trailers at its end or in its head.
fn answered(pieces: &[&[u8]], accept: &str, ended: bool) -> Vec<u8> {
    let status = HeaderValue::from_static("0");
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status)]);
    let answer = body(pieces, ended.then_some(trailers));
    let mut answer =
        Some(Response::builder().header("content-type", "application/grpc").body(answer));
    let inner = service_fn(move |_: Request<Body>| {
        std::future::ready(Ok::<_, Infallible>(answer.take().unwrap().unwrap()))
    });
    let request = Request::post("/")
        .header("content-type", "application/grpc-web+proto")
        .header("accept", accept)
        .body(Body::new(Full::new(Bytes::new())));
    let call = GrpcWebLayer.layer(inner).call(request.unwrap());
    let Ok(response) = at_once(call);
    at_once(response.into_body().collect()).unwrap().to_bytes().to_vec()
}
