//! From a listening socket to a served connection.

mod settings;

pub use settings::{ConnectionLimits, ListenerSettings};
