//! Whole connections over HTTP/1.1: the service is asked for what a strict reader
//! finds, or the client is refused.
#![no_main]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response, Version};
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tollgate::body::Body;
use tollgate::context::Downstream;
use tollgate::drain;
use tollgate::serve::{ServeSettings, Speaks, ValidateLayer, connection};
use tollgate_fuzz::strict::{self, Fault, Message, Requests};
use tower::{Layer, service_fn};

thread_local! {
    // Time is the runtime's own, and passes when there is nothing else to do.
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
}

/// What the service was asked: method, target and body, where that was whole.
type Asked = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

fuzz_target!(|bytes: &[u8]| {
    let expected = strict::requests(bytes);
    let step = if bytes.len() % 2 == 0 { bytes.len().max(1) } else { 7 };
    let (answers, asked) = RUNTIME.with(|runtime| runtime.block_on(serve(bytes, step, &expected)));
    let mut asked = asked.iter();
    for (number, answer) in answers.iter().enumerate() {
        if answer.values("x-served").is_empty() {
            let ours = expected.whole.get(number).is_some_and(Message::asks_the_server);
            assert!(ours || (400..600).contains(&answer.status()), "{answer:?}");
            continue;
        }
        let request = expected.whole.get(number).unwrap_or_else(|| panic!("{:?}", expected.fault));
        assert_eq!(request.wrong, None, "{request:?}");
        let (method, target, body) = asked.next().expect("it was asked");
        assert_eq!(method, request.method());
        assert_eq!(*target, request.asks_for().0);
        assert_eq!(body.as_ref(), Some(&request.body));
    }
    for (_, _, body) in asked {
        assert!(body.is_none() && expected.fault.is_some(), "{body:?} of {expected:?}");
    }
    let most = expected.whole.len() + usize::from(expected.fault.is_some());
    assert!(answers.len() <= most, "{answers:?}");
    let told = answers.last().is_some_and(Message::closes);
    assert!(answers.len() >= expected.whole.len() || told, "{answers:?} to {expected:?}");
});

async fn serve(bytes: &[u8], step: usize, expected: &Requests) -> (Vec<Message>, Vec<Asked>) {
    let (client, server) = duplex(64 * 1024);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    let service = ValidateLayer.layer(service_fn(move |request: Request<Body>| {
        let kept = kept.clone();
        async move { Ok::<_, Infallible>(answer(request, &kept).await) }
    }));
    let settings = Arc::new(ServeSettings { http2: false, ..ServeSettings::default() });
    let trigger = drain::trigger();
    let (downstream, drain) = (Downstream::default(), trigger.watcher());
    let serving = connection(server, Speaks::Http1, downstream, settings, service, drain);
    let (answers, ()) = tokio::join!(ask(client, bytes, step, expected), serving);
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    (answers, asked)
}

async fn answer(request: Request<Body>, kept: &Mutex<Vec<Asked>>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    // Written for an origin, a path is not empty.
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let slash = if target.starts_with('?') { "/" } else { "" };
    let target = format!("{slash}{target}").into_bytes();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).ok();
    let whole = body.is_some();
    kept.lock().unwrap().push((parts.method.as_str().as_bytes().to_vec(), target, body));
    let response = Response::builder().version(Version::HTTP_11);
    if whole {
        response.header("x-served", "1").body(Body::from("ok")).unwrap()
    } else {
        response.status(400).body(Body::empty()).unwrap()
    }
}

/// Sends all, and reads all; once there are as many answers as requests, the
/// client has nothing more to say.
async fn ask(client: DuplexStream, bytes: &[u8], step: usize, expected: &Requests) -> Vec<Message> {
    let (mut read, mut write) = tokio::io::split(client);
    let enough = tokio::sync::Notify::new();
    let sending = async {
        for piece in bytes.chunks(step) {
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        enough.notified().await;
        let _gone = write.shutdown().await;
    };
    let reading = async {
        let (mut received, mut answers, mut ended) = (Vec::new(), Vec::<Message>::new(), false);
        loop {
            if answers.len() >= expected.whole.len() {
                enough.notify_one();
            }
            let method = expected.whole.get(answers.len()).map_or(&b"GET"[..], Message::method);
            let mut taken = strict::response(&received, method, false);
            if ended && answers.len() >= expected.whole.len() && taken == Err(Fault::Cut) {
                taken = strict::response(&received, b"HEAD", true);
            }
            match taken {
                Ok((answer, rest)) => {
                    received = rest.to_vec();
                    answers.push(answer);
                }
                Err(Fault::Cut) if ended => {
                    // To an HTTP/1.0 client the end may be the end of the body.
                    assert!(received.is_empty(), "{}", received.escape_ascii());
                    enough.notify_one();
                    return answers;
                }
                Err(Fault::Cut) => {
                    ended = !matches!(read.read_buf(&mut received).await, Ok(1..));
                }
                Err(fault) => panic!("{fault:?}: {}", received.escape_ascii()),
            }
        }
    };
    let ((), answers) = tokio::join!(sending, reading);
    answers
}
