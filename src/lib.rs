//! Tollgate: a reverse proxy and API gateway.

#![deny(missing_docs)]

pub mod accept;
pub mod admin;
pub mod app;
pub mod balance;
pub mod body;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod context;
pub mod drain;
pub mod error;
pub mod forward;
pub mod layers;
pub mod observe;
pub mod pem;
pub mod respond;
pub mod route;
pub mod serve;
pub mod tls;
pub mod upstream;

pub use app::{BindError, Bound, BuildError, Ended, Proxy, ProxyBuilder, ProxyService, SetupError};
