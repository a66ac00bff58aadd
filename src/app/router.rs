//! From the layers of every exchange to those of one route.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response, StatusCode};
use tower::Service;

use crate::body::Body;
use crate::context::{Downstream, Exchange, Route};
use crate::error::Error;
use crate::forward::Forward;
use crate::layers::{Ask, ShortCircuit};
use crate::respond::{Answer, Format};
use crate::route::{Reply, Table, host_of, readings};

/// A route ready to take requests.
#[derive(Clone, Debug)]
pub(super) struct Entry<S> {
    pub(super) route: Arc<Route>,
    pub(super) stack: S,
}

/// Hands each request to the stack of the route that matches it.
#[derive(Debug)]
pub struct Router<S>(Arc<Tables<S>>);

/// The routes of each listener.
#[derive(Debug)]
pub(super) struct Tables<S> {
    /// Of the listeners that a route names.
    pub(super) named: Vec<(String, Table<Entry<S>>)>,
    /// Of all others.
    pub(super) others: Table<Entry<S>>,
    /// Each address of each listener; none where no route names a listener.
    pub(super) places: Vec<Place>,
}

/// Where connections come in.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) listener: String,
    /// As it is configured.
    pub(super) address: String,
    /// Which of the named tables it has.
    pub(super) named: Option<usize>,
}

impl<S> Clone for Router<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Router<S> {
    pub(super) fn new(tables: Tables<S>) -> Self {
        Self(Arc::new(tables))
    }

    /// The routes of the listener that has the address now by which a connection came
    /// in: it may be older than the listener's name. None if nobody has it any more, or
    /// it cannot be told who has.
    fn table(&self, downstream: Option<&Downstream>) -> Option<&Table<Entry<S>>> {
        let Tables { named, others, places } = &*self.0;
        if places.is_empty() {
            return Some(others);
        }
        let Some(downstream) = downstream.filter(|downstream| !downstream.address.is_empty())
        else {
            return Some(others);
        };
        let mut here = places.iter().filter(|place| *place.address == *downstream.address);
        let same = here.clone().find(|place| *place.listener == *downstream.listener);
        let place = same.or_else(|| here.next().filter(|_| here.next().is_none()))?;
        match place.named {
            Some(index) => named.get(index).map(|(_, table)| table),
            None => Some(others),
        }
    }
}

/// The route of a path; `Err` if an origin may read the path as another route's.
fn find<'t, S>(
    table: &'t Table<Entry<S>>,
    host: Option<&str>,
    path: &str,
) -> Result<Option<&'t Entry<S>>, Answer> {
    let found = table.find(host, path);
    let route = |entry: Option<&Entry<S>>| entry.map(|entry| Arc::as_ptr(&entry.route));
    if readings(path).all(|other| route(table.find(host, &other)) == route(found)) {
        return Ok(found);
    }
    let detail = "The path can be read in two ways that are not treated alike.";
    Err(Answer::new(StatusCode::BAD_REQUEST, "path_ambiguous", detail)
        .proxy_error("http_request_error"))
}

/// Why a request is nobody's: the host is not ours to answer for on this connection
/// (RFC 9110 §15.5.20), or nothing is here.
fn nobody<T>(
    table: Option<&Table<T>>,
    host: Option<&str>,
    downstream: Option<&Downstream>,
) -> Answer {
    let knows = |host: &str| table.is_some_and(|table| table.knows_host(host));
    let server_name = downstream.and_then(|d| d.tls.as_ref()?.server_name.as_deref());
    let misdirected = match (host, server_name) {
        (Some(host), Some(name)) => !host.eq_ignore_ascii_case(name) && !knows(host),
        _ => false,
    };
    if misdirected {
        let detail = "This connection is not for that host; open one of its own.";
        return Answer::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail);
    }
    Answer::new(StatusCode::NOT_FOUND, "no_route", "Nothing is served under this address.")
}

impl<S> Service<Request<Body>> for Router<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ShortCircuit<Ask<S, Request<Body>>, Body>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let exchange = request.extensions().get::<Exchange>();
        let host = host_of(&request);
        let downstream = exchange.map(|exchange| &**exchange.downstream());
        let table = self.table(downstream);
        let found = table.map_or(Ok(None), |table| find(table, host, request.uri().path()));
        let answer = match found {
            Ok(Some(entry)) => {
                if let Some(exchange) = exchange {
                    let route = entry.route.clone();
                    exchange.update(|record| record.route = Some(route));
                }
                return ShortCircuit::forwarded(Ask::new(&mut entry.stack.clone(), request));
            }
            Ok(None) => nobody(table, host, downstream),
            Err(answer) => answer,
        };
        if let Some(exchange) = exchange {
            exchange.update(|record| record.rejection = Some(answer.code()));
        }
        ShortCircuit::rejected(answer.render(Format::preferred(request.headers())))
    }
}

/// What stands at the end of a route's stack.
#[derive(Clone, Debug)]
pub enum Terminus {
    /// Forwards to an upstream.
    Forward(Forward),
    /// Answers by itself.
    Reply(Reply),
}

type Answered = Result<Response<Body>, Error>;

impl Service<Request<Body>> for Terminus {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<Pin<Box<dyn Future<Output = Answered> + Send>>, Ready<Answered>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Forward(forward) => Either::Left(forward.call(request)),
            Self::Reply(reply) => Either::Right(ready(Ok(reply.answer(&request)))),
        }
    }
}
