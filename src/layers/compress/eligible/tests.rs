use super::*;
use crate::layers::{CompressionSettings, MediaPattern};

const LONG: Option<u64> = Some(5000);

fn asked(fields: &[(&'static str, &str)]) -> Asked {
    let mut request = Request::get("/").body(()).unwrap();
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let accepted = accepted(request.headers(), &CompressionSettings::default());
    Asked::of(&request, accepted, &[])
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn judge(request: &[(&'static str, &str)], response: &[(&'static str, &str)]) -> Verdict {
    let settings = CompressionSettings::default();
    asked(request).judge(StatusCode::OK, &headers(response), LONG, &settings)
}

const GZIP: (&str, &str) = ("accept-encoding", "gzip");
const TEXT: (&str, &str) = ("content-type", "text/html; charset=utf-8");

#[test]
fn text_is_compressed_for_whoever_takes_it() {
    assert_eq!(judge(&[GZIP], &[TEXT]), Verdict::Compress);
    assert_eq!(judge(&[], &[TEXT]), Verdict::Varies(Outcome::NotAccepted));
    assert_eq!(judge(&[GZIP], &[]), Verdict::Same(Outcome::Type));
    assert_eq!(judge(&[GZIP], &[("content-type", "image/png")]), Verdict::Same(Outcome::Type));
}

#[test]
fn only_responses_with_content_of_their_own_are_compressed() {
    let settings = CompressionSettings::default();
    for status in [100, 101, 103, 204, 205, 226, 304, 416] {
        let status = StatusCode::from_u16(status).unwrap();
        let verdict = asked(&[GZIP]).judge(status, &headers(&[TEXT]), LONG, &settings);
        assert_eq!(verdict, Verdict::Same(Outcome::Status), "{status}");
    }
    for status in [200, 203, 404, 500] {
        let status = StatusCode::from_u16(status).unwrap();
        let verdict = asked(&[GZIP]).judge(status, &headers(&[TEXT]), LONG, &settings);
        assert_eq!(verdict, Verdict::Compress, "{status}");
    }
    let partial =
        asked(&[GZIP]).judge(StatusCode::PARTIAL_CONTENT, &headers(&[TEXT]), LONG, &settings);
    assert_eq!(partial, Verdict::Varies(Outcome::Range));
}

#[test]
fn what_is_encoded_stays_as_it_is_and_is_never_for_everybody() {
    for coding in ["gzip", "identity, br", "x-unknown"] {
        let response = [TEXT, ("content-encoding", coding)];
        assert_eq!(judge(&[GZIP], &response), Verdict::Varies(Outcome::Encoded), "{coding}");
    }
    assert_eq!(judge(&[GZIP], &[TEXT, ("content-encoding", "Identity")]), Verdict::Compress);
}

#[test]
fn rfc9111_s5_2_2_6_no_transform_forbids_it() {
    for said in ["no-transform", "max-age=5, No-Transform"] {
        let response = [TEXT, ("cache-control", said)];
        assert_eq!(judge(&[GZIP], &response), Verdict::Same(Outcome::NoTransform), "{said}");
    }
    let quoted = [TEXT, ("cache-control", "x=\"a, no-transform\"")];
    assert_eq!(judge(&[GZIP], &quoted), Verdict::Compress);
}

#[test]
fn event_streams_and_grpc_are_never_compressed_whatever_the_types_are() {
    let types =
        ["text/*", "application/*", "+proto"].map(|text| text.parse::<MediaPattern>().unwrap());
    let settings = CompressionSettings { types: types.to_vec(), ..CompressionSettings::default() };
    for never in [
        "text/event-stream",
        "Text/Event-Stream; charset=utf-8",
        "application/grpc+proto",
        "application/grpc-web",
    ] {
        let response = headers(&[("content-type", never)]);
        let verdict = asked(&[GZIP]).judge(StatusCode::OK, &response, None, &settings);
        assert_eq!(verdict, Verdict::Same(Outcome::Type), "{never}");
    }
    let call = Request::post("/").header("content-type", "application/grpc").body(()).unwrap();
    assert!(!is_about_content(&call));
    assert!(!is_about_content(&Request::connect("a.test:1").body(()).unwrap()));
}

#[test]
fn what_is_short_stays_unless_the_client_refuses_it_as_it_is() {
    let settings = CompressionSettings::default();
    let judge = |accept: &str, length| {
        let asked = asked(&[("accept-encoding", accept)]);
        asked.judge(StatusCode::OK, &headers(&[TEXT]), length, &settings)
    };
    assert_eq!(judge("gzip", Some(1023)), Verdict::Same(Outcome::Short));
    assert_eq!(judge("gzip", Some(1024)), Verdict::Compress);
    assert_eq!(judge("gzip", None), Verdict::Compress);
    assert_eq!(judge("gzip, identity;q=0", Some(10)), Verdict::Compress);
    assert_eq!(judge("gzip, identity;q=0", Some(0)), Verdict::Same(Outcome::Short));
}

#[test]
fn a_part_is_asked_for_of_the_content_as_it_is() {
    let ranged = [GZIP, ("range", "bytes=0-5")];
    assert_eq!(judge(&ranged, &[TEXT]), Verdict::Varies(Outcome::Range));
    assert!(asked(&ranged).accepted.is_empty());
}

#[test]
fn what_may_hold_a_secret_is_compressed_only_if_it_is_for_all() {
    let secret = Verdict::Varies(Outcome::Credentials);
    for who in [("cookie", "a=b"), ("authorization", "Basic x")] {
        let response = |said| judge(&[GZIP, who], &[TEXT, ("cache-control", said)]);
        assert_eq!(response("max-age=60"), secret, "{who:?}");
        assert_eq!(response("private"), secret);
        assert_eq!(response("x=\"public\""), secret);
        assert_eq!(response("public=1"), secret);
        assert_eq!(response("public"), Verdict::Compress);
        assert_eq!(response("s-maxage=5"), Verdict::Compress);
        assert_eq!(response("private, s-maxage=0"), secret);
        assert_eq!(response("public, no-store"), secret);
    }
    let with_cookie =
        |said| judge(&[GZIP], &[TEXT, ("set-cookie", "a=b"), ("cache-control", said)]);
    assert_eq!(with_cookie("s-maxage=5"), secret);
    assert_eq!(with_cookie("public"), Verdict::Compress);
    let settings = CompressionSettings { with_credentials: true, ..CompressionSettings::default() };
    let asked = asked(&[GZIP, ("cookie", "a=b")]);
    assert_eq!(asked.judge(StatusCode::OK, &headers(&[TEXT]), LONG, &settings), Verdict::Compress);
}

#[test]
fn what_the_operator_has_every_request_carry_is_no_secret_of_the_client() {
    let request = Request::get("/").header("authorization", "Basic x").body(()).unwrap();
    let of = |vouched: &[HeaderName]| Asked::of(&request, Accepted::default(), vouched).credentials;
    assert!(of(&[]));
    assert!(!of(&[header::AUTHORIZATION]));
}

#[test]
fn a_head_without_a_length_is_not_guessed_about() {
    let mut asked = asked(&[GZIP]);
    asked.head = true;
    let settings = CompressionSettings::default();
    let judge = |length| asked.judge(StatusCode::OK, &headers(&[TEXT]), length, &settings);
    assert_eq!(judge(None), Verdict::Varies(Outcome::Head));
    assert_eq!(judge(LONG), Verdict::Compress);
    assert_eq!(judge(Some(3)), Verdict::Same(Outcome::Short));
}
