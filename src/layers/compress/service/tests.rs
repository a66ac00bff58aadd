use std::convert::Infallible;

use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;

fn page() -> Response<Body> {
    Response::builder()
        .header("content-type", "text/html")
        .header("content-length", "5000")
        .header("etag", "\"a\"")
        .header("accept-ranges", "bytes")
        .body(Body::from("hello".repeat(1000)))
        .unwrap()
}

fn get(accept: &str) -> http::request::Builder {
    Request::get("/").header("accept-encoding", accept)
}

async fn ask(layer: &CompressionLayer, request: http::request::Builder) -> Response<Body> {
    let service = layer.layer(tower::service_fn(|request: Request<Body>| async move {
        let said = request.headers().get("accept-encoding").cloned();
        let mut response = page();
        if let Some(said) = said {
            response.headers_mut().insert("x-said", said);
        }
        Ok::<_, Infallible>(response)
    }));
    service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

fn layer() -> CompressionLayer {
    CompressionLayer::new(&CompressionSettings::default())
}

#[tokio::test]
async fn one_layer_is_all_that_compression_takes() {
    let response = ask(&layer(), get("gzip;q=0.5, deflate, br;q=0.5")).await;
    let headers = response.headers();
    assert_eq!(headers["x-said"], "br, gzip");
    assert_eq!(headers["content-encoding"], "br");
    assert_eq!(headers["vary"], "Accept-Encoding");
    assert_eq!(headers["etag"], "W/\"a\"");
    assert!(!headers.contains_key("content-length") && !headers.contains_key("accept-ranges"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut content = String::new();
    std::io::Read::read_to_string(&mut brotli::Decompressor::new(&body[..], 4096), &mut content)
        .unwrap();
    assert_eq!(content, "hello".repeat(1000));
}

#[tokio::test]
async fn without_room_the_content_goes_out_as_it_is() {
    let counts = CompressionCounts::default();
    let full = CompressionLayer(Arc::new(Route {
        room: Room::new(500 << 10),
        counts: counts.clone(),
        ..(*layer().0).clone()
    }));
    let first = ask(&full, get("zstd, gzip")).await;
    assert_eq!(first.headers()["content-encoding"], "zstd");
    let second = ask(&full, get("zstd, gzip")).await;
    assert!(!second.headers().contains_key("content-encoding"));
    assert_eq!(second.headers()["content-length"], "5000");
    assert_eq!(second.headers()["etag"], "\"a\"");
    assert_eq!(second.headers()["vary"], "Accept-Encoding");
    assert_eq!(counts.get(CompressionOutcome::NoRoom), 1);
    drop(first);
    assert_eq!(ask(&full, get("gzip")).await.headers()["content-encoding"], "gzip");
}

#[tokio::test]
async fn a_call_of_grpc_passes_as_it_is() {
    let request = get("gzip, x-own").header("content-type", "application/grpc");
    let response = ask(&layer(), request).await;
    assert_eq!(response.headers()["x-said"], "gzip, x-own");
    assert!(!response.headers().contains_key("vary"));
}

#[tokio::test]
async fn the_upper_layer_without_settings_changes_nothing() {
    let echo = tower::service_fn(|request: Request<()>| async move {
        Ok::<_, Infallible>(request.headers()["accept-encoding"].clone())
    });
    for (settings, said) in
        [(None, "deflate, gzip"), (Some(CompressionSettings::default()), "gzip")]
    {
        let service = AcceptEncodingLayer::new(settings.as_ref()).layer(echo);
        let request = get("deflate, gzip").body(()).unwrap();
        assert_eq!(service.oneshot(request).await.unwrap(), said);
    }
}

#[test]
fn a_route_without_compression_has_no_larger_future_for_the_upper_layer() {
    type Inner = tower::util::BoxCloneService<Request<Body>, Response<Body>, Infallible>;
    type Of<S> = <S as Service<Request<Body>>>::Future;
    assert_eq!(size_of::<Of<AcceptEncoding<Inner>>>(), size_of::<Of<Inner>>());
    let word = size_of::<usize>();
    assert!(size_of::<Of<Compressed<Inner>>>() <= size_of::<Of<Inner>>() + word);
}
