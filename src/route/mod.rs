//! Which route a request takes, and the answers that routes give themselves.

mod reading;
mod reply;
mod settings;
mod table;

use http::{Request, header};

pub use reading::readings;
pub use reply::Reply;
pub use settings::{
    Action, FixedResponse, ForwardAction, HostPattern, Match, OriginHost, PathPattern, Redirect,
    RedirectTo,
};
pub use table::{Conflict, Table};

/// The host a request is for, without its port: the target's authority, else
/// `Host`. An IPv6 address keeps its brackets.
#[must_use]
pub fn host_of<B>(request: &Request<B>) -> Option<&str> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.host());
    }
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    Some(without_port(host))
}

/// A host without its port.
fn without_port(host: &str) -> &str {
    match host.bytes().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if host.as_bytes()[at] == b':' => &host[..at],
        _ => host,
    }
}
