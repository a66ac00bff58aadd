//! Signs requests as the origin will see them (RFC 9421).
//!
//! Everything that changes a request on its way has done so by then: the target and
//! `Host` are those of the origin that was picked, so each attempt is signed by itself.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::{Request, header};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::body::Body;
use crate::error::{Error, Kind, cause_of};
use crate::signature::digest::{self, CONTENT_DIGEST};
use crate::signature::{Message, Scheme, SignError, SignSettings, Signer};
use crate::upstream::Origin;

/// Signs a request to this origin, in the place of an earlier signature of ours.
pub(super) fn sign(
    request: &mut Request<Body>,
    origin: &Origin,
    settings: &SignSettings,
) -> Result<(), Error> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let message = Message {
        method: request.method(),
        scheme: Scheme::secured(origin.is_tls()),
        authority: host.unwrap_or_default(),
        target: request.uri(),
        is_absolute: false,
        headers: request.headers(),
    };
    let signed = Signer::new(settings).sign(&message, SystemTime::now());
    let signed = signed.map_err(|error| {
        let kind = match error {
            // A field that is not ASCII, or a query that is none.
            SignError::Missing(_) => Kind::RequestInvalid,
            SignError::Failed => Kind::Internal,
        };
        Error::new(kind).detail("the request cannot be signed").because(error)
    })?;
    for (name, value) in signed {
        request.headers_mut().insert(name, value);
    }
    Ok(())
}

/// Gathers the body, and says in a field what it is: a signature covers fields only.
pub(super) async fn digest_body(request: &mut Request<Body>, most: usize) -> Result<(), Error> {
    if request.body().is_end_stream() {
        return Ok(());
    }
    let body = gather(std::mem::take(request.body_mut()), most).await?;
    let headers = request.headers_mut();
    if let Some(digest) = digest::of(&body) {
        headers.insert(CONTENT_DIGEST, digest);
    }
    // It is here already, and whatever came behind it was not kept.
    headers.remove(header::EXPECT);
    headers.remove(header::TRAILER);
    *request.body_mut() = Body::from(body);
    Ok(())
}

async fn gather(mut body: Body, most: usize) -> Result<Bytes, Error> {
    let too_large = || {
        let detail = format!("a body of more than {most} bytes is not signed");
        Error::new(Kind::RequestBodyTooLarge).detail(detail)
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut gathered = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let kind = cause_of::<Error>(&*error).map_or(Kind::RequestBodyAborted, Error::kind);
            Error::new(kind).because(error)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if gathered.len() + data.len() > most {
            return Err(too_large());
        }
        gathered.extend_from_slice(&data);
    }
    Ok(gathered.freeze())
}
