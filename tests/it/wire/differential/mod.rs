//! What the proxy makes of arbitrary bytes, beside what a strict reader does: it
//! refuses them, or both have read the same.
//!
//! The same cases are tried each time. `PROPTEST_CASES` says how many others to try, for
//! each of the tests.

mod grammar;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use self::grammar::{Case, LEGAL, ODD};
use crate::support::client::get;
use crate::support::proxy::{Running, Setup};
use crate::support::recorder::{Received, Recorder};
use crate::support::strict::{self, Fault, Message, Requests};

const CASES: u32 = 500;

/// No case takes longer than this, unless somebody waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(8);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nX-Origin: 1\r\nContent-Length: 2\r\n\r\nok";

type Checked = Result<(), String>;

#[test]
fn a_request_is_refused_or_reaches_the_origin_as_a_strict_reader_has_it() {
    let world = World::new();
    check(&grammar::requests(ODD), |case| {
        world.within(async {
            let expected = strict::requests(&case.bytes);
            let answers = ask(&world.proxy, &case, &expected).await?;
            let kept = world.settled().await?;
            as_the_strict_reader_has_it(&expected, &answers, kept)
        })
    });
}

#[test]
fn legal_requests_are_all_answered_by_the_origin() {
    let world = World::new();
    check(&grammar::requests(LEGAL), |case| {
        world.within(async {
            let expected = strict::requests(&case.bytes);
            that(expected.fault.is_none(), || format!("they are not legal: {expected:?}"))?;
            let answers = ask(&world.proxy, &case, &expected).await?;
            let from_origin = answers.iter().filter(|answer| is_from_origin(answer)).count();
            that(from_origin == expected.whole.len(), || {
                format!("they were not all served: {answers:?}")
            })?;
            as_the_strict_reader_has_it(&expected, &answers, world.recorder.take())
        })
    });
}

#[test]
fn a_response_is_refused_or_reaches_the_client_as_a_strict_reader_has_it() {
    let world = World::new();
    let methods = proptest::sample::select(&["GET", "GET", "HEAD", "POST"][..]);
    check(&(grammar::responses(ODD), methods), |(case, method)| {
        world.within(async { world.answered(&case, method, false).await })
    });
}

#[test]
fn legal_responses_all_reach_the_client() {
    let world = World::new();
    let methods = proptest::sample::select(&["GET", "GET", "HEAD", "POST"][..]);
    check(&(grammar::responses(LEGAL), methods), |(case, method)| {
        world.within(async { world.answered(&case, method, true).await })
    });
}

/// Tries as many cases as are asked for.
fn check<S: Strategy>(strategy: &S, test: impl Fn(S::Value) -> Checked)
where
    S::Value: fmt::Debug,
{
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = |cases| Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = match cases {
        Some(cases) => TestRunner::new(config(cases)),
        None => {
            let known = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            TestRunner::new_with_rng(config(CASES), known)
        }
    };
    runner
        .run(strategy, |value| test(value).map_err(TestCaseError::fail))
        .unwrap_or_else(|failed| panic!("{failed}"));
}

fn that(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

/// A proxy before an origin that records. The origin answers `/case` with the
/// case's bytes, where there are any, and everything else with [`OK`].
struct World {
    runtime: Runtime,
    recorder: Recorder,
    proxy: Running,
    script: Arc<Mutex<Option<(Case, bool)>>>,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let script = Arc::new(Mutex::new(None::<(Case, bool)>));
        let answers = script.clone();
        let recorder =
            runtime.block_on(Recorder::answering(move |request| match &*answers.lock() {
                Some((case, goes_on)) if request.first[1] == b"/case" => {
                    (case.pieces().map(<[u8]>::to_vec).collect(), *goes_on)
                }
                _ if request.method() == b"HEAD" => (vec![OK[..OK.len() - 2].to_vec()], true),
                _ => (vec![OK.to_vec()], true),
            }));
        let proxy = Setup::forwarding_to(&recorder.origin).start();
        Self { runtime, recorder, proxy, script }
    }

    fn within(&self, test: impl Future<Output = Checked>) -> Checked {
        let test = async { tokio::time::timeout(PATIENCE, test).await };
        self.runtime.block_on(test).unwrap_or_else(|_| Err("somebody waits for ever".to_owned()))
    }

    /// What the origin has, once nothing more of a case is on its way to it.
    async fn settled(&self) -> Result<Vec<Received>, String> {
        let answer = get(self.proxy.address, "/settled", "").await;
        that(answer.status == 200, || format!("the next exchange: {answer:?}"))?;
        let mut kept = self.recorder.take();
        let is_ours = |one: &Received| match one {
            Received::Request(message) => message.first[1] == b"/settled",
            Received::Bytes(..) => false,
        };
        let ours = kept.iter().rposition(is_ours).ok_or("the next exchange never arrived")?;
        kept.remove(ours);
        Ok(kept)
    }

    /// Asks an origin that answers with the bytes of `case`.
    async fn answered(&self, case: &Case, method: &str, legal: bool) -> Checked {
        let method_bytes = method.as_bytes();
        // Who sends more than a response has nothing further to say, and says it in one breath
        // with the response's end: what comes later nobody can tell from the next answer.
        let mut case = case.clone();
        let rest = strict::response(&case.bytes, method_bytes, false).map(|(_, rest)| rest.len());
        if let Ok(rest @ 1..) = rest {
            case.join_at(case.bytes.len() - rest);
        }
        *self.script.lock() = Some((case.clone(), rest == Ok(0)));
        let expected = strict::response(&case.bytes, method_bytes, true);
        let body = if method == "POST" { "Content-Length: 1\r\n\r\nb" } else { "\r\n" };
        let fields = "Host: a.test\r\nTE: trailers\r\nConnection: TE";
        let mut client = Client::connect(&self.proxy).await;
        client.send(format!("{method} /case HTTP/1.1\r\n{fields}\r\n{body}").as_bytes()).await;
        let answer = loop {
            match strict::response(&client.received, method_bytes, client.ended) {
                Ok((answer, rest)) => {
                    that(rest.is_empty(), || format!("after the answer: {}", rest.escape_ascii()))?;
                    break Some(answer);
                }
                Err(Fault::Cut) if client.ended => break None,
                Err(Fault::Cut) => client.more().await,
                Err(fault) => return Err(format!("{fault:?}: {}", client.received.escape_ascii())),
            }
        };
        let must_pass = legal && matches!(&expected, Ok((_, [])));
        match (&answer, &expected) {
            (Some(answer), Ok((expected, _))) if answer.status() != 502 => {
                that(answer.status() == expected.status(), || format!("the status of {answer:?}"))?;
                that(answer.body == expected.body, || {
                    format!("the body of {answer:?} is not that of {expected:?}")
                })?;
                same_fields(expected, answer)?;
            }
            (Some(answer), Err(fault)) if answer.status() != 502 => {
                return Err(format!("{fault:?}, but the client has {answer:?}"));
            }
            (answer, _) => that(!must_pass, || format!("it is legal, but {answer:?}"))?,
        }
        if client.ended || answer.is_none_or(|answer| answer.closes()) {
            client = Client::connect(&self.proxy).await;
        }
        client.received.clear();
        client.send(b"GET /ok HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
        while !client.ended {
            client.more().await;
        }
        let next = strict::response(&client.received, b"GET", true);
        let clean = matches!(&next, Ok((next, [])) if is_from_origin(next) && next.body == b"ok");
        that(clean, || format!("the next exchange: {}", client.received.escape_ascii()))
    }
}

/// A client that reads whatever comes.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    ended: bool,
}

impl Client {
    async fn connect(proxy: &Running) -> Self {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new(), ended: false }
    }

    async fn send(&mut self, bytes: &[u8]) {
        let _refused = self.stream.write_all(bytes).await;
    }

    async fn more(&mut self) {
        self.ended = !matches!(self.stream.read_buf(&mut self.received).await, Ok(1..));
    }
}

/// Sends a case; gives all final responses. Once there are as many as requests,
/// the client has nothing more to say.
async fn ask(proxy: &Running, case: &Case, expected: &Requests) -> Result<Vec<Message>, String> {
    let mut client = Client::connect(proxy).await;
    for piece in case.pieces() {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    let (mut answers, mut fallen_silent) = (Vec::new(), false);
    loop {
        let method = expected.whole.get(answers.len()).map_or(&b"GET"[..], Message::method);
        let mut read = strict::response(&client.received, method, false);
        if client.ended && expected.whole.len() <= answers.len() && read == Err(Fault::Cut) {
            // What was refused may have been a HEAD.
            read = strict::response(&client.received, b"HEAD", true);
        }
        match read {
            Ok((answer, rest)) => {
                client.received = rest.to_vec();
                answers.push(answer);
            }
            Err(Fault::Cut) if client.ended => {
                let rest = client.received.escape_ascii();
                that(client.received.is_empty(), || format!("half an answer: {rest}"))?;
                return Ok(answers);
            }
            Err(Fault::Cut) => {
                if answers.len() >= expected.whole.len() && !fallen_silent {
                    fallen_silent = true;
                    let _gone = client.stream.shutdown().await;
                }
                client.more().await;
            }
            Err(fault) => return Err(format!("{fault:?}: {}", client.received.escape_ascii())),
        }
    }
}

fn is_from_origin(answer: &Message) -> bool {
    !answer.values("x-origin").is_empty()
}

/// Whether it is the answer to `OPTIONS *`, of the proxy's own (RFC 9110 §9.3.7).
/// It is given whatever becomes of a body.
fn is_of_options(answer: &Message) -> bool {
    answer.status() == 200 && !answer.values("allow").is_empty()
}

fn as_the_strict_reader_has_it(
    expected: &Requests,
    answers: &[Message],
    kept: Vec<Received>,
) -> Checked {
    let mut forwarded = Vec::new();
    for one in kept {
        match one {
            Received::Request(message) => forwarded.push(message),
            Received::Bytes(Fault::Cut, _) if expected.fault.is_some() => {}
            other => return Err(format!("the origin was sent {other:?}")),
        }
    }
    let mut forwarded = forwarded.iter();
    for (number, answer) in answers.iter().enumerate() {
        if !is_from_origin(answer) {
            let refused = (400..600).contains(&answer.status());
            that(refused || is_of_options(answer), || format!("no refusal: {answer:?}"))?;
            continue;
        }
        let request = expected.whole.get(number);
        let request = request.ok_or_else(|| format!("{:?}, but served", expected.fault))?;
        that(request.wrong.is_none(), || format!("served, but wrong: {request:?}"))?;
        same(request, forwarded.next().ok_or("an answer to what the origin has not received")?)?;
    }
    let more: Vec<_> = forwarded.collect();
    that(more.is_empty(), || format!("the origin received as well {more:?}"))?;
    let most = expected.whole.len() + usize::from(expected.fault.is_some());
    that(answers.len() <= most, || format!("{} answers to {most} requests", answers.len()))?;
    let all = answers.len() >= expected.whole.len();
    let told = answers.last().is_some_and(Message::closes);
    that(all || told, || format!("closed without a word, after {answers:?}"))
}

fn same(expected: &Message, got: &Message) -> Checked {
    let (target, host) = expected.asks_for();
    that(got.method() == expected.method(), || format!("the method of {got:?}"))?;
    that(got.asks_for().0 == target, || format!("the target of {got:?}"))?;
    that(host.is_none() || got.asks_for().1 == host, || format!("the host of {got:?}"))?;
    that(got.body == expected.body, || format!("the body of {got:?} is not that of {expected:?}"))?;
    same_fields(expected, got)
}

/// The fields of the test's own are the same, but for those of one hop.
fn same_fields(expected: &Message, got: &Message) -> Checked {
    let names = [expected, got].into_iter().flat_map(|message| &message.fields);
    for (name, _) in names.filter(|(name, _)| name.starts_with("x-t-")) {
        let values = match expected.has_token("connection", name) {
            true => Vec::new(),
            false => expected.values(name),
        };
        that(got.values(name) == values, || format!("{name} of {got:?}"))?;
    }
    Ok(())
}
