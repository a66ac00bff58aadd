//! Ways in for the fuzz targets in `fuzz/`, to what is nobody's to call.
//!
//! Compiled under `cfg(fuzzing)` only, which no build but theirs sets.

pub use crate::forward::fuzz::{join_cookies, requested_upgrade, strip, take_te_trailers};
pub use crate::http1::fuzz::{ChunkedBody, Framed, chunked_body};
pub use crate::observe::fuzz::{log_line_json, log_line_text};
pub use crate::route::readings;
pub use crate::serve::http1_fuzz::{RequestHead, request_head, write_response};
pub use crate::serve::http2_fuzz::frame_heads;
pub use crate::signature::fuzz::signatures;
pub use crate::upstream::fuzz::{ResponseHead, response_head, write_request};
