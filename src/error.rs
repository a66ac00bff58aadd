//! The one error that travels up the request path.
//!
//! It says what went wrong ([`Kind`]), whose fault it is ([`Side`]) and whether
//! the request may be sent again ([`Resend`]); the cause stays in
//! [`source`](std::error::Error::source). It knows nothing of any other module:
//! whoever meets a foreign error says here what that error meant.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// Any error at all, as tower and hyper pass them on.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong while one request was carried out.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    resend: Resend,
    detail: Option<Cow<'static, str>>,
    source: Option<BoxError>,
}

/// Whose fault an [`Error`] is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// The client sent something wrong, or went away.
    Downstream,
    /// Tollgate itself refused or failed.
    Proxy,
    /// The origin, or the way to it, failed.
    Upstream,
}

/// Whether the request that met an [`Error`] may be sent again; in order, from
/// never to always.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Resend {
    /// Sending again could carry the request out twice, or cannot help.
    Never,
    /// The origin may have seen the request: only an idempotent one whose body
    /// is untouched may be sent again (RFC 9110 §9.2.2).
    IfIdempotent,
    /// Not one byte of the request was written.
    Safe,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// The request breaks the rules of its protocol.
    RequestInvalid,
    /// The request's body is longer than the route allows.
    RequestBodyTooLarge,
    /// The client stopped sending its request body.
    RequestBodyTimeout,
    /// The client's request body ended before it was whole.
    RequestBodyAborted,
    /// More exchanges are under way than Tollgate was told to carry, or than
    /// the system has files and ports for.
    Overloaded,
    /// No origin of the upstream is fit to be asked.
    NoOrigin,
    /// The origin's name did not resolve.
    DnsFailed,
    /// The origin's name was not resolved in time.
    DnsTimeout,
    /// The origin refused the connection, or none of its addresses was reachable.
    ConnectRefused,
    /// The origin did not accept the connection in time.
    ConnectTimeout,
    /// The origin's certificate did not verify.
    TlsCertificate,
    /// The TLS handshake with the origin failed for another reason.
    TlsProtocol,
    /// The connection to the origin ended before the response's head was whole.
    ConnectionTerminated,
    /// The origin sent no response head in time.
    ResponseTimeout,
    /// The origin fell silent in the midst of a response body.
    ResponseBodyTimeout,
    /// The origin's response body ended before it was whole.
    ResponseIncomplete,
    /// The origin's response breaks the rules of its protocol.
    ResponseInvalid,
    /// The origin answered an upgrade with something it may not answer.
    UpgradeFailed,
    /// The request has passed this proxy before.
    Loop,
    /// A fault of Tollgate's own.
    Internal,
}

impl Kind {
    /// Whose fault this kind of error is.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::RequestInvalid
            | Self::RequestBodyTooLarge
            | Self::RequestBodyTimeout
            | Self::RequestBodyAborted
            | Self::Loop => Side::Downstream,
            Self::Overloaded | Self::Internal => Side::Proxy,
            Self::NoOrigin
            | Self::DnsFailed
            | Self::DnsTimeout
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::TlsCertificate
            | Self::TlsProtocol
            | Self::ConnectionTerminated
            | Self::ResponseTimeout
            | Self::ResponseBodyTimeout
            | Self::ResponseIncomplete
            | Self::ResponseInvalid
            | Self::UpgradeFailed => Side::Upstream,
        }
    }

    /// The kind as one word, for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestInvalid => "request_invalid",
            Self::RequestBodyTooLarge => "request_body_too_large",
            Self::RequestBodyTimeout => "request_body_timeout",
            Self::RequestBodyAborted => "request_body_aborted",
            Self::Overloaded => "overloaded",
            Self::NoOrigin => "no_origin",
            Self::DnsFailed => "dns_failed",
            Self::DnsTimeout => "dns_timeout",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::TlsCertificate => "tls_certificate",
            Self::TlsProtocol => "tls_protocol",
            Self::ConnectionTerminated => "connection_terminated",
            Self::ResponseTimeout => "response_timeout",
            Self::ResponseBodyTimeout => "response_body_timeout",
            Self::ResponseIncomplete => "response_incomplete",
            Self::ResponseInvalid => "response_invalid",
            Self::UpgradeFailed => "upgrade_failed",
            Self::Loop => "loop",
            Self::Internal => "internal",
        }
    }
}

impl Error {
    /// An error of this kind that must not be answered by sending again.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self(Box::new(Inner { kind, resend: Resend::Never, detail: None, source: None }))
    }

    /// Says whether the request may be sent again.
    #[must_use]
    pub fn resend(mut self, resend: Resend) -> Self {
        self.0.resend = resend;
        self
    }

    /// Adds a sentence for the log. The client never sees it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whose fault it is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.0.kind.side()
    }

    /// Whether the request may be sent again.
    #[must_use]
    pub fn resendable(&self) -> Resend {
        self.0.resend
    }

    /// The whole chain of causes on one line, for the log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind.as_str())?;
        match &self.0.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("resend", &self.0.resend)
            .field("detail", &self.0.detail)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Finds an error of type `E` in `error` or among its causes.
#[must_use]
pub fn cause_of<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref() {
            return Some(found);
        }
        // An `io::Error` hides the error it wraps from `source`, which gives
        // that error's own source instead.
        if let Some(inner) = current.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref())
            && let Some(found) = cause_of(inner)
        {
            return Some(found);
        }
        cause = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_cause_is_found_through_an_io_error() {
        let deep = io::Error::other(Error::new(Kind::RequestBodyTimeout));
        let error = Error::new(Kind::ConnectionTerminated).because(deep);
        let found: &Error = cause_of(error.source().unwrap()).unwrap();
        assert_eq!(found.kind(), Kind::RequestBodyTimeout);
        assert!(cause_of::<fmt::Error>(&error).is_none());
    }

    #[test]
    fn the_chain_names_every_cause_once() {
        let error = Error::new(Kind::ConnectRefused)
            .detail("127.0.0.1:1")
            .because(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(error.chain(), "connect_refused: 127.0.0.1:1: connection refused");
    }
}
