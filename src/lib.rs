//! Tollgate: a reverse proxy and API gateway, as one binary, one container, or
//! one [`tower::Service`] inside your application.
//!
//! # Embedding
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::num::NonZeroU32;
//!
//! use tollgate::Proxy;
//! use tollgate::config::RouteSettings;
//! use tollgate::layers::RateLimitSettings;
//! use tollgate::route::{Action, ForwardAction, Match, PathPattern};
//!
//! let below_api = Match { path: PathPattern::Prefix("/api".into()), ..Match::default() };
//! let to_api = Action::Forward(ForwardAction::new("api"));
//! let mut route = RouteSettings::new("api", below_api, to_api);
//! let ten = NonZeroU32::new(10).ok_or("ten is not zero")?;
//! route.rate_limits = vec![RateLimitSettings::per_second(ten)];
//!
//! let proxy = Proxy::builder()
//!     .upstream("api", ["http://127.0.0.1:3000", "http://127.0.0.1:3001"])
//!     .route(route)
//!     .build()?;
//!
//! let app: axum::Router = axum::Router::new()
//!     .route("/mine", axum::routing::get(|| async { "mine" }))
//!     .fallback_service(proxy.into_service());
//! # Ok(())
//! # }
//! ```
//!
//! A file does as well: `Proxy::from_config("config.toml")`. With sockets of its
//! own a proxy is bound and run: [`Proxy::bind`], [`Bound::run`].
//!
//! # The journey of a request
//!
//! [`accept`] takes the connection, [`tls`] shakes hands, [`serve`] speaks HTTP
//! and refuses what is malformed; [`route`] finds the route, whose [`layers`]
//! limit, authenticate and rewrite; [`forward`] picks an origin by way of
//! [`balance`] and asks it through [`upstream`]. What is learnt on the way stands
//! in the [`context::Exchange`], from which [`observe`] writes log and metrics.
//! [`app`] joins it all, and [`config`] makes settings from TOML.
//!
//! # Features
//!
//! All are on by default; an embedding application takes those that it needs, with
//! `default-features = false`.
//!
//! - `cli`: the command line, the demo and what they need.
//! - `compression`: compression of responses; it builds zstd, which is in C.
//! - `jwt`: JSON Web Tokens, and the login with OpenID Connect.
//! - `redis`: what several instances share by way of Redis or Valkey.
//!
//! `compression` (default): the encoders of [`layers::CompressionLayer`], of which zstd is
//! in C. Without it nothing is compressed, and routes that ask for it are an error.

#![deny(missing_docs)]

pub mod accept;
pub mod admin;
pub mod app;
pub mod balance;
pub mod body;
pub mod budget;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod context;
pub mod drain;
pub mod error;
pub mod fetch;
pub mod forward;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
pub mod handover;
mod hex;
mod http1;
pub mod layers;
pub mod observe;
pub mod pace;
pub mod pem;
pub mod proxy_protocol;
pub mod redis;
pub mod respond;
pub mod roots;
pub mod route;
pub mod seat;
pub mod serve;
pub mod signature;
pub mod socket;
pub mod switch;
pub mod systemd;
pub mod tls;
pub mod upstream;
pub mod watch;

pub use app::{
    Beginning, BindError, Bound, BuildError, Control, Ended, Proxy, ProxyBuilder, ProxyService,
    SetupError,
};
