//! What every scheme has in common: it is asked about a request, and judges it.

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, Uri, Version};

use crate::context::{Downstream, Exchange, Identity};

/// One way of telling who a request is from.
///
/// A scheme judges by the head of a request, and by what it remembers. It is shared by all
/// threads. [`AuthLayer::by`](super::AuthLayer::by) makes a layer of it.
///
/// ```
/// use http::Request;
/// use tollgate::context::Identity;
/// use tollgate::layers::{Asked, Authenticate, Grant, Judging, Verdict};
///
/// /// Lets in whoever knows the word of the day.
/// #[derive(Debug)]
/// struct WordOfTheDay(&'static str);
///
/// impl Authenticate for WordOfTheDay {
///     fn scheme(&self) -> &'static str {
///         "word"
///     }
///
///     fn judge(&self, request: &Asked<'_>) -> Judging {
///         Judging::Now(match request.headers.get("x-word") {
///             None => Verdict::Absent,
///             Some(word) if word == self.0 => Verdict::Granted(Grant::to(Identity::new("friend", "word"))),
///             Some(_) => Verdict::Refused("auth_invalid"),
///         })
///     }
/// }
///
/// let service = tower::ServiceBuilder::new()
///     .layer(tollgate::layers::AuthLayer::by(WordOfTheDay("sesame")))
///     .service(tower::service_fn(|_: Request<tollgate::body::Body>| async {
///         Ok::<_, std::convert::Infallible>(http::Response::new(tollgate::body::Body::empty()))
///     }));
/// # let _ = service;
/// ```
pub trait Authenticate: Any + fmt::Debug + Send + Sync {
    /// The scheme, as one word for logs.
    fn scheme(&self) -> &'static str;

    /// Judges a request.
    ///
    /// Whoever compares secrets does so in constant time, and does the same work for one
    /// who is unknown as for one whose secret is wrong.
    fn judge(&self, request: &Asked<'_>) -> Judging;

    /// How credentials are asked for in a 401 (RFC 9110 §11.6.1). Default none.
    fn challenge(&self) -> Option<HeaderValue> {
        None
    }

    /// Fields that it sets on requests. They are taken out of every request that comes in,
    /// with the names that origins read as the same. Default none.
    fn identity_fields(&self) -> Vec<HeaderName> {
        Vec::new()
    }

    /// Takes out of a request what is this scheme's affair alone and not the origin's, where
    /// another scheme has let it in: an API key, say. What stands in the fields `kept` is that
    /// scheme's affair. Default nothing.
    fn conceal(&self, _request: &mut Parts, _kept: &[HeaderName]) {}

    /// Whether the request is this scheme's own to answer, whoever else would let it in: that
    /// of somebody who comes back from where one logs in, say. Default never.
    fn claims(&self, _request: &Asked<'_>) -> bool {
        false
    }

    /// Whether it is credentials that it judges by, and not the network that a request comes
    /// from, say. What it lets in is answered for one client then, and not for all alike.
    /// Default true.
    fn is_by_credentials(&self) -> bool {
        true
    }

    /// Fields in which it looks for credentials. No scheme may tell the origin by these who
    /// asks, and what is wrong for one scheme there may be right for another that looks there
    /// as well. Default none.
    fn credential_fields(&self) -> Vec<HeaderName> {
        Vec::new()
    }

    /// Those of [`credential_fields`](Self::credential_fields) in which this request has
    /// credentials for it; `None`, the default: any of them.
    fn shown_in(&self, request: &Asked<'_>) -> Option<Vec<HeaderName>> {
        let _ = request;
        None
    }

    /// Whether it costs so much to judge a request that one which is given up meanwhile
    /// counts as a failure of its address. Default false.
    fn is_dear(&self) -> bool {
        false
    }

    /// The query parameter that credentials may stand in. Default none.
    fn secret_parameter(&self) -> Option<Arc<str>> {
        None
    }
}

/// A request, as far as a scheme may see it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The protocol version.
    pub version: Version,
    /// The fields.
    pub headers: &'a HeaderMap,
    /// Its record, if there is one.
    pub exchange: Option<&'a Exchange>,
    /// The connection it came in on, if that is known.
    pub downstream: Option<&'a Arc<Downstream>>,
    /// The whole body, once a scheme has asked for it.
    pub body: Option<&'a Bytes>,
}

/// The answer of a scheme, or the way to it.
pub enum Judging {
    /// It is known.
    Now(Verdict),
    /// The body has to be seen first, so many bytes at the most; then it is asked again. A
    /// longer one is answered 413.
    Body(usize),
    /// Something else has to be asked first.
    Later(Pin<Box<dyn Future<Output = Verdict> + Send>>),
}

/// What a scheme says of a request.
#[derive(Debug)]
pub enum Verdict {
    /// It is known who asks.
    Granted(Grant),
    /// There are no credentials of this scheme.
    Absent,
    /// The credentials are wrong, for a reason that the client is not told: one word for
    /// the log, such as `auth_invalid`.
    Refused(&'static str),
    /// The credentials are not good now, and were or will be: an expired token, say. It is
    /// answered like wrong ones, and is no guess of somebody's.
    Outdated(&'static str),
    /// It is known who asks, and they may not.
    Forbidden(&'static str),
    /// It comes from where this scheme lets nobody in, but another may.
    Outside(&'static str),
    /// It is answered like this, for a reason: by a redirect to where one logs in, say.
    Answered(Box<Response<Bytes>>, &'static str),
    /// The credentials are wrong, as with [`Verdict::Refused`], and that is answered like
    /// this.
    RefusedWith(Box<Response<Bytes>>, &'static str),
    /// It cannot be told now.
    Unavailable(&'static str),
    /// One of the others that keep somebody out, said of one who is known by credentials that
    /// are genuine: the log has the name. See [`Verdict::about`].
    About(Arc<Identity>, Box<Self>),
}

/// What comes of being let in.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// Who asks. `None` only where nothing is known of that, as for a network.
    pub identity: Option<Arc<Identity>>,
    /// What is changed on the request for the origin.
    pub changes: Option<Arc<Changes>>,
    /// Fields that are added to the response.
    pub response: Vec<(HeaderName, HeaderValue)>,
}

/// What is changed on a request that is let in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Fields taken out: credentials that are not the origin's affair.
    pub remove: Vec<HeaderName>,
    /// Cookies taken out.
    pub strip_cookies: Vec<Box<str>>,
    /// Fields put in the place of any there were, and of their twins.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// The query parameter taken out.
    pub strip_query: Option<Arc<str>>,
}

impl<'a> Asked<'a> {
    /// What can be seen of a request.
    #[must_use]
    pub fn of(parts: &'a Parts, body: Option<&'a Bytes>) -> Self {
        let exchange = parts.extensions.get::<Exchange>();
        let downstream = match exchange {
            Some(exchange) => Some(exchange.downstream()),
            None => parts.extensions.get::<Arc<Downstream>>(),
        };
        Self {
            method: &parts.method,
            uri: &parts.uri,
            version: parts.version,
            headers: &parts.headers,
            exchange,
            downstream,
            body,
        }
    }

    /// The client's address: by the exchange, which knows of trusted proxies, or else the
    /// peer's.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        match self.exchange {
            Some(exchange) => exchange.client(),
            None => self.downstream?.peer_address(),
        }
    }
}

impl Verdict {
    /// Says of whom it is said, for the log.
    #[must_use]
    pub fn about(self, identity: impl Into<Arc<Identity>>) -> Self {
        Self::About(identity.into(), Box::new(self))
    }

    /// What is said, and of whom, if that is known.
    pub(super) fn apart(self) -> (Self, Option<Arc<Identity>>) {
        match self {
            Self::About(identity, verdict) => (verdict.apart().0, Some(identity)),
            verdict => (verdict, None),
        }
    }

    /// Whether it counts as a failure of whoever asks.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::RefusedWith(..))
    }
}

impl Grant {
    /// Lets this one in, and changes nothing.
    #[must_use]
    pub fn to(identity: impl Into<Arc<Identity>>) -> Self {
        Self { identity: Some(identity.into()), ..Self::default() }
    }

    /// Changes this on the request.
    #[must_use]
    pub fn changing(mut self, changes: impl Into<Arc<Changes>>) -> Self {
        self.changes = Some(changes.into());
        self
    }
}

impl fmt::Debug for Judging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(verdict) => f.debug_tuple("Now").field(verdict).finish(),
            Self::Body(limit) => f.debug_tuple("Body").field(limit).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

impl From<Verdict> for Judging {
    fn from(verdict: Verdict) -> Self {
        Self::Now(verdict)
    }
}
