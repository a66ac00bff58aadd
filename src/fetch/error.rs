//! What may go wrong with a request of Tollgate's own.

use std::fmt;
use std::time::Duration;

use http::{StatusCode, Uri};

use crate::error::BoxError;
use crate::roots::RootsError;

/// Settings that no client can be made of.
#[derive(Debug, thiserror::Error)]
pub enum FetchSetupError {
    /// There are no certificates to believe.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The library refused the settings.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Why there is no answer: whom was asked, and what went wrong. The URL is told without
/// its query, where there may be something that nobody is to read.
#[derive(Debug, thiserror::Error)]
#[error("{whom}: {failure}")]
pub struct FetchError {
    whom: Whom,
    #[source]
    failure: Failure,
}

/// Where a request went, as far as it may be told.
#[derive(Debug)]
struct Whom(Uri);

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("expected an absolute URL without a user's name")]
    NotAUrl,
    #[error("cannot connect: {}", causes(.0))]
    Unreachable(#[source] BoxError),
    #[error("no whole answer within {0:?}")]
    TimedOut(Duration),
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    #[error("the connection failed: {}", causes(.0))]
    Broken(#[source] BoxError),
    #[error("it answered {0}")]
    Status(StatusCode),
}

impl FetchError {
    pub(super) fn not_a_url(url: &Uri) -> Self {
        Failure::NotAUrl.at(url)
    }

    pub(super) fn timed_out(url: &Uri, timeout: Duration) -> Self {
        Failure::TimedOut(timeout).at(url)
    }

    pub(super) fn status(url: &Uri, status: StatusCode) -> Self {
        Failure::Status(status).at(url)
    }

    /// Whether the answer did not come in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.failure, Failure::TimedOut(_))
    }

    /// Whether there was no connection: nothing of the request was sent.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self.failure, Failure::Unreachable(_))
    }

    /// Whether there was more of the answer than is taken.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        matches!(self.failure, Failure::TooLong(_))
    }
}

impl Failure {
    pub(super) fn of_client(error: hyper_util::client::legacy::Error) -> Self {
        if error.is_connect() {
            Self::Unreachable(error.into())
        } else {
            Self::Broken(error.into())
        }
    }

    pub(super) fn at(self, url: &Uri) -> FetchError {
        FetchError { whom: Whom(url.clone()), failure: self }
    }
}

/// A URL as it may be told: scheme, host, port and path. In its query, or as a user's name,
/// there may be something that nobody is to read.
#[must_use]
pub fn place(url: &Uri) -> String {
    Whom(url.clone()).to_string()
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.0.scheme_str() {
            write!(f, "{scheme}://")?;
        }
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let behind_user = authority.rsplit('@').next().unwrap_or_default();
        write!(f, "{behind_user}{}", self.0.path())
    }
}

/// The innermost cause says the most: "client error (Connect)" is of no help.
fn causes(error: &BoxError) -> String {
    let mut innermost: &dyn std::error::Error = error.as_ref();
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
