//! Routes that answer by themselves: redirects and fixed responses.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper::ext::Protocol;

use super::{FixedResponse, Redirect, RedirectTo, host_of};
use crate::body::Body;
use crate::respond::{Answer, Format};

/// An answer that needs no origin. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reply(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    Redirect(Redirect),
    Fixed { status: StatusCode, content_type: HeaderValue, body: Bytes },
}

impl Reply {
    /// Answers with a redirect.
    #[must_use]
    pub fn redirect(redirect: Redirect) -> Self {
        Self(Arc::new(Kind::Redirect(redirect)))
    }

    /// Answers with this.
    ///
    /// # Errors
    ///
    /// The content type cannot be a field value.
    pub fn fixed(fixed: &FixedResponse) -> Result<Self, http::Error> {
        Ok(Self(Arc::new(Kind::Fixed {
            status: fixed.status,
            content_type: HeaderValue::from_str(&fixed.content_type)?,
            body: Bytes::copy_from_slice(fixed.body.as_bytes()),
        })))
    }

    /// The answer to this request.
    #[must_use]
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        match &*self.0 {
            // A 2xx to an extended CONNECT opens the tunnel that it asks for.
            Kind::Fixed { status, .. }
                if status.is_success() && request.extensions().get::<Protocol>().is_some() =>
            {
                Answer::new(
                    StatusCode::NOT_IMPLEMENTED,
                    "protocol_unserved",
                    "This protocol is not served here.",
                )
                .render(Format::preferred(request.headers()))
            }
            Kind::Fixed { status, content_type, body } => {
                let mut response = Response::new(Body::from(body.clone()));
                *response.status_mut() = *status;
                response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
                response
            }
            Kind::Redirect(redirect) => match location(redirect, request) {
                Some(location) => {
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = redirect.status;
                    response.headers_mut().insert(header::LOCATION, location);
                    response
                }
                // Only a request without a host has no place to be sent to.
                None => Answer::new(
                    StatusCode::BAD_REQUEST,
                    "host_missing",
                    "The request names no host to redirect to.",
                )
                .render(Format::preferred(request.headers())),
            },
        }
    }
}

fn location<B>(redirect: &Redirect, request: &Request<B>) -> Option<HeaderValue> {
    let path = request.uri().path_and_query();
    let uri = match &redirect.to {
        RedirectTo::Fixed(uri) => uri.to_string(),
        RedirectTo::SamePath(base) => {
            let path = path.map_or("/", PathAndQuery::as_str);
            format!("{}{path}", base.to_string().trim_end_matches('/'))
        }
        RedirectTo::Https { port } => {
            let host = host_of(request)?;
            let authority = if *port == 443 { host.to_owned() } else { format!("{host}:{port}") };
            Uri::builder()
                .scheme(Scheme::HTTPS)
                .authority(authority)
                .path_and_query(path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/")))
                .build()
                .ok()?
                .to_string()
        }
    };
    HeaderValue::try_from(uri).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location_of(to: RedirectTo, request: &Request<()>) -> String {
        let reply = Reply::redirect(Redirect { status: StatusCode::PERMANENT_REDIRECT, to });
        let response = reply.answer(request);
        assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
        response.headers()[header::LOCATION].to_str().unwrap().to_owned()
    }

    fn request() -> Request<()> {
        Request::get("/a/b?c=d").header(header::HOST, "example.com:8080").body(()).unwrap()
    }

    #[test]
    fn https_keeps_host_path_and_query_and_leaves_the_old_port() {
        let to = RedirectTo::Https { port: 443 };
        assert_eq!(location_of(to, &request()), "https://example.com/a/b?c=d");
        let to = RedirectTo::Https { port: 6188 };
        assert_eq!(location_of(to, &request()), "https://example.com:6188/a/b?c=d");
    }

    #[test]
    fn a_fixed_place_is_a_fixed_place_and_the_same_path_is_kept_if_asked() {
        let place = Uri::from_static("https://example.org/new");
        assert_eq!(location_of(RedirectTo::Fixed(place), &request()), "https://example.org/new");
        let base = Uri::from_static("https://example.org");
        let moved = location_of(RedirectTo::SamePath(base), &request());
        assert_eq!(moved, "https://example.org/a/b?c=d");
    }

    #[test]
    fn without_a_host_there_is_nowhere_to_redirect_to() {
        let reply = Reply::redirect(Redirect {
            status: StatusCode::PERMANENT_REDIRECT,
            to: RedirectTo::Https { port: 443 },
        });
        let request = Request::get("/").body(()).unwrap();
        assert_eq!(reply.answer(&request).status(), StatusCode::BAD_REQUEST);
    }
}
