//! A new binary in place of the running one, without a refused connection.
//!
//! The running process, the *predecessor*, starts its *successor* and gives it the
//! listening sockets, with the connections that wait in them. It goes on serving
//! until the successor has said that it is ready, was told to go and has said that
//! it serves; only then it drains. Whatever fails before that costs nothing: the
//! successor is ended, and the reason is told.
//!
//! ```text
//! predecessor                            successor
//!   starts it              ───────────→
//!   greeting               ←──────────→  greeting
//!   sockets, state         ───────────→
//!                                        builds, binds what is new
//!                          ←───────────  ready, or failed with a text
//!   go                     ───────────→
//!                                        serves
//!                          ←───────────  serving
//!   stops accepting, drains, ends
//! ```
//!
//! They talk over a pair of Unix sockets, one of which is the successor's standard
//! input; nothing in the file system is needed, and nobody else can join in. Each
//! message is a line of JSON; sockets travel beside it (`SCM_RIGHTS`).
//!
//! The successor is in the predecessor's process group: Ctrl-C in a terminal ends
//! both. It inherits no descriptor but its standard streams and what it was sent.

mod error;
mod predecessor;
mod program;
mod successor;
mod wire;

pub use error::UpgradeError;
pub use predecessor::{Predecessor, Verdict};
pub use program::Program;
pub use successor::Successor;

/// The version of the conversation: two that differ do not understand each other.
pub const PROTOCOL: u32 = 1;

/// Set for a successor, and for it alone: its standard input is its predecessor.
pub const VARIABLE: &str = "TOLLGATE_HANDOVER";

#[cfg(test)]
mod tests;
