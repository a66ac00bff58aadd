//! Who may ask, and who may change anything.
//!
//! A browser on this machine reaches loopback too, and shows pages of strangers. It
//! says so in what it sends: a page's requests to change something carry `Origin`,
//! and `Sec-Fetch-Site` tells whose page it was. Neither may be there, for no page
//! of anybody's has business here. A `Host` that is no loopback name is a page that
//! goes by a name of its own (DNS rebinding).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::layers::KeyDigest;
use crate::respond::{Answer, Format};
use crate::route::host_of;

/// The token that whoever asks must show, if any. Cheap to clone; all clones have
/// the same, so that a reload can change it.
#[derive(Clone, Debug, Default)]
pub struct Token(Arc<ArcSwapOption<KeyDigest>>);

impl Token {
    /// Asks for this token.
    #[must_use]
    pub fn new(digest: Option<KeyDigest>) -> Self {
        let token = Self::default();
        token.set(digest);
        token
    }

    /// Asks for this token from now on, or for none.
    pub fn set(&self, digest: Option<KeyDigest>) {
        self.0.store(digest.map(Arc::new));
    }

    fn is_set(&self) -> bool {
        self.0.load().is_some()
    }

    /// Whether these fields carry it: true if none is asked for.
    fn is_shown_by(&self, fields: &HeaderMap) -> bool {
        let expected = self.0.load();
        let Some(expected) = &*expected else { return true };
        let mut lines = fields.get_all(header::AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return false };
        let given = bearer(line).unwrap_or_default();
        bool::from(expected.matches(&KeyDigest::of(given))) && !given.is_empty()
    }
}

/// What stands behind `Bearer` (RFC 6750 §2.1); the scheme is in any case.
fn bearer(line: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = line.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// What decides who may ask.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// Where the listener is bound.
    pub(super) address: SocketAddr,
    pub(super) token: Token,
}

impl Guard {
    /// Why a request is not looked at.
    fn refusal(&self, request: &Request) -> Option<Answer> {
        let (fields, path) = (request.headers(), request.uri().path());
        if self.address.ip().is_loopback() && !names_loopback(request) {
            let detail = "The admin listener answers to localhost only.";
            return Some(Answer::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail));
        }
        // Who asks for these is often no person, and learns nothing.
        let open = matches!(path, "/livez" | "/readyz");
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && from_a_page(fields) {
            let detail = "A page in a browser may not change anything here.";
            return Some(Answer::new(StatusCode::FORBIDDEN, "from_a_page", detail));
        }
        if !open && !self.token.is_shown_by(fields) {
            let detail = "The admin token is needed here: `Authorization: Bearer …`.";
            let challenge = HeaderValue::from_static("Bearer realm=\"tollgate\"");
            let answer = Answer::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
            return Some(answer.header(header::WWW_AUTHENTICATE, challenge));
        }
        if !reads && !self.address.ip().is_loopback() && !self.token.is_set() {
            let detail = "The admin listener is open to other machines, so nothing can be changed \
                          here without a token: set `token` in [admin].";
            return Some(Answer::new(StatusCode::FORBIDDEN, "token_needed", detail));
        }
        None
    }
}

/// Lets a request on, or answers it.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Some(answer) = guard.refusal(&request) else { return next.run(request).await };
    // Strangers write no log: whoever wants to see them asks for it.
    let (method, path) = (request.method(), request.uri().path());
    tracing::debug!(%method, path, why = answer.code(), "the admin listener refused a request");
    answer.render(Format::preferred(request.headers()))
}

fn names_loopback(request: &Request) -> bool {
    let host = host_of(request).unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|host| host.is_loopback())
}

/// Whether a browser sent this for a page. `none` is a person who typed the address;
/// a browser too old to say sends `Origin` with what changes something.
fn from_a_page(fields: &HeaderMap) -> bool {
    let by_a_page = |site: &HeaderValue| site.as_bytes() != b"none";
    fields.contains_key(header::ORIGIN) || fields.get_all("sec-fetch-site").iter().any(by_a_page)
}
