//! HTTP on one connection from a client.

mod settings;

pub use settings::{H2Settings, ServeSettings};
