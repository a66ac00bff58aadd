//! What can be wrong with a request's head, and what is answered then.

use http::StatusCode;

use crate::respond::Answer;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    Malformed,
    Version,
    Target,
    TargetTooLong,
    TooLong,
    TooManyFields,
    Framing,
    Coding,
    Expectation,
    /// It was not whole in time.
    Late,
}

impl Fault {
    /// What the client is told.
    pub(super) fn answer(self) -> Answer {
        let (status, code, detail) = match self {
            Self::Malformed => {
                (StatusCode::BAD_REQUEST, "head_malformed", "The request's head is malformed.")
            }
            Self::Version => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "version_unsupported",
                "This connection speaks HTTP/1.1.",
            ),
            Self::Target => {
                (StatusCode::BAD_REQUEST, "target_invalid", "The request target is not valid.")
            }
            Self::TargetTooLong => {
                (StatusCode::URI_TOO_LONG, "target_too_long", "The request target is too long.")
            }
            Self::TooLong => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_long",
                "The request's head is too long.",
            ),
            Self::TooManyFields => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too_many_fields",
                "The request has too many fields.",
            ),
            Self::Framing => (
                StatusCode::BAD_REQUEST,
                "framing_invalid",
                "It is not clear where the request's body ends.",
            ),
            Self::Coding => (
                StatusCode::NOT_IMPLEMENTED,
                "framing_invalid",
                "The only transfer coding that is understood is `chunked`.",
            ),
            Self::Expectation => (
                StatusCode::EXPECTATION_FAILED,
                "expectation_failed",
                "The only expectation that is understood is `100-continue`.",
            ),
            Self::Late => (
                StatusCode::REQUEST_TIMEOUT,
                "request_head_timeout",
                "The request's head was not whole in time.",
            ),
        };
        Answer::new(status, code, detail).proxy_error("http_request_error").close()
    }
}
