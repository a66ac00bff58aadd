//! Requests to an origin over HTTP/2 (RFC 9113).
//!
//! Each exchange has a stream of its own and drives it itself; the frames of all
//! streams of a connection are moved by one task. A connection carries no more
//! streams than the origin and the configuration allow: see [`set`].

mod connection;
mod outgoing;
mod received;
mod set;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::Reason;
use h2::client::ResponseFuture;
use http::{Method, Request, Response, StatusCode, header};
use tokio::time::{Instant, sleep};

use self::outgoing::Outgoing;
use self::received::{Received, Upload};
use super::client::no_request;
use super::http1::{CONTINUE_PATIENCE, MAX_INTERIM};
use super::origin::Origin;
use crate::body::Body;
use crate::context::Interim;
use crate::error::{Error, Kind, Resend};
use crate::http1::announced;

pub(super) use connection::{Lease, SEND_BUFFER, connect};
pub(super) use set::{Claim, Dialling, Outcome, Set, outcome};

impl Lease {
    /// Sends a request and waits for the head of the response. The request is put
    /// back into its slot if it failed and could be sent again. A body that the
    /// client holds back until it is told to go on is held back here too, until the
    /// origin says so.
    pub(super) async fn send(
        self,
        origin: &Origin,
        slot: &mut Option<Request<Body>>,
        deadline: Duration,
        interims: Option<&Interim>,
    ) -> Result<Response<Body>, Error> {
        let Some(request) = slot.take() else { return Err(no_request()) };
        let (parts, body) = request.into_parts();
        // h2 keeps what it is given.
        let again = parts.clone();
        let whole = |body| Some(Request::from_parts(again, body));
        let asks_head = parts.method == Method::HEAD;
        let mut head = Request::from_parts(parts, ());
        origin.address(&mut head);
        let empty = http_body::Body::is_end_stream(&body);
        let held = !empty && head.headers().contains_key(header::EXPECT);
        let announced = if empty { Vec::new() } else { announced(head.headers()) };
        let (mut response, stream) = match self.sender().send_request(head, empty) {
            Ok(opened) => opened,
            Err(error) if error.is_io() || error.is_go_away() => {
                self.retire();
                *slot = whole(body);
                return Err(terminated(error).resend(Resend::Safe));
            }
            Err(error) => return Err(Error::new(Kind::RequestInvalid).because(error)),
        };
        let mut outgoing = Outgoing::new(stream, body, announced, empty, held);
        let answered = answer(&mut response, &mut outgoing, deadline, interims).await;
        let response = match answered {
            Ok(response) => response,
            Err(error) => {
                if error.resendable() == Resend::Safe || error.kind() == Kind::ResponseTimeout {
                    self.retire();
                }
                if error.resendable() > Resend::Never {
                    *slot = outgoing.into_whole().and_then(whole);
                }
                return Err(error);
            }
        };
        outgoing.forget();
        // An origin that answers before it called for the body does not want it,
        // unless all is well.
        let refused = outgoing.is_held() && !response.status().is_success();
        outgoing.go_on();
        let lease = Arc::new(self);
        let upload = (!outgoing.is_over() && !refused).then(|| {
            // The response may need the rest of the request, and the client may
            // read none of it before it has sent all.
            let lease = lease.clone();
            let rest = async move {
                let _ended = poll_fn(|cx| outgoing.poll(cx)).await;
                drop((outgoing, lease));
            };
            tokio::spawn(rest).abort_handle()
        });
        let (parts, stream) = response.into_parts();
        // RFC 9110 §6.4.1: whatever follows such a head is no content.
        let no_content =
            asks_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let upload = upload.map(|upload| Upload::new(upload, origin.timeouts().idle_body));
        let body = if no_content || stream.is_end_stream() {
            upload.into_iter().for_each(Upload::finish);
            Body::empty()
        } else {
            let length = parts.headers.get(header::CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            Body::new(Received::new(stream, length, upload, lease))
        };
        Ok(Response::from_parts(parts, body))
    }
}

/// The head of the final response, while the request's body is sent.
async fn answer(
    response: &mut ResponseFuture,
    outgoing: &mut Outgoing,
    deadline: Duration,
    interims: Option<&Interim>,
) -> Result<Response<h2::RecvStream>, Error> {
    let patience = if outgoing.is_held() { CONTINUE_PATIENCE } else { deadline };
    let mut timer = pin!(sleep(patience));
    let mut seen = 0;
    poll_fn(|cx| {
        if let Poll::Ready(answered) = poll_head(response, outgoing, interims, &mut seen, cx) {
            return Poll::Ready(answered);
        }
        if !outgoing.is_over()
            && let Poll::Ready(Err(error)) = outgoing.poll(cx)
        {
            return Poll::Ready(Err(error));
        }
        while timer.as_mut().poll(cx).is_ready() {
            if outgoing.is_held() {
                outgoing.go_on();
                timer.as_mut().reset(Instant::now() + deadline);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Counted from the end of the request, and not while the client is
            // waited for: how slow that may be is for its own timeout to say.
            let since = outgoing.waits_since().unwrap_or_else(Instant::now);
            let due = since + deadline;
            if due <= timer.deadline() {
                let detail = format!("no response head within {deadline:?}");
                return Poll::Ready(Err(Error::new(Kind::ResponseTimeout).detail(detail)));
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await
}

fn poll_head(
    response: &mut ResponseFuture,
    outgoing: &mut Outgoing,
    interims: Option<&Interim>,
    seen: &mut u32,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<h2::RecvStream>, Error>> {
    while let Poll::Ready(Some(head)) = response.poll_informational(cx) {
        let head = head.map_err(classify)?;
        let invalid = |detail: &'static str| Error::new(Kind::ResponseInvalid).detail(detail);
        *seen += 1;
        if *seen > MAX_INTERIM {
            return Poll::Ready(Err(invalid("the origin sent too many interim responses")));
        }
        match head.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                return Poll::Ready(Err(invalid("HTTP/2 does not switch protocols")));
            }
            StatusCode::CONTINUE => outgoing.go_on(),
            // RFC 9110 §15.2
            _ => {
                if let Some(interims) = interims {
                    interims.put(head);
                }
            }
        }
    }
    std::pin::Pin::new(response).poll(cx).map_err(classify)
}

/// Says what an error before the response's head means for the exchange.
fn classify(error: h2::Error) -> Error {
    if error.is_library() {
        // h2 ended the stream or the connection over what the origin sent.
        return Error::new(Kind::ResponseInvalid).because(error);
    }
    // RFC 9113 §8.7: neither a refused stream nor one past the last that a GOAWAY
    // names has been looked at. h2 gives the GOAWAY to none but those.
    let refused =
        error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
    terminated(error).resend(if refused { Resend::Safe } else { Resend::IfIdempotent })
}

fn terminated(error: h2::Error) -> Error {
    Error::new(Kind::ConnectionTerminated).because(error)
}
