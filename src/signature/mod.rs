//! HTTP message signatures (RFC 9421): what is signed, and by which keys.
//!
//! A signature covers *components* of a message: derived ones such as `@method`, and
//! fields. Their values make up the *signature base*, which is what a key signs. Here
//! is what both sides need: [`Message`] gives a request's components,
//! [`VerifyingKey`] and [`SigningKey`] know the algorithms, [`read`] takes signatures
//! out of a request's fields, and [`Signer`] puts one in. Who may sign what is for
//! whoever asks to decide.

mod algorithm;
mod component;
pub mod digest;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod input;
mod message;
mod signer;

pub use algorithm::{Algorithm, KeyRejected, SigningKey, UnknownAlgorithm, VerifyingKey};
pub use component::{Component, Unsupported};
pub use input::{Malformed, Received, read};
pub use message::{Message, Missing, Scheme};
pub use signer::{SignError, SignSettings, Signer};

use http::HeaderName;

/// `Signature`
pub const SIGNATURE: HeaderName = HeaderName::from_static("signature");
/// `Signature-Input`
pub const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");

#[cfg(test)]
mod vectors;
