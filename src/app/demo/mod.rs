//! What `tollgate demo` adds to a proxy: two origins and a certificate.

mod certificate;
mod origin;

pub use certificate::{Made, ensure_certificate};
pub use origin::{origin, serve_origin};
