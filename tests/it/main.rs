//! Whole-proxy tests, in one binary: real sockets, real TLS, a proxy in the
//! same process, origins that record what they receive.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(unreachable_pub, reason = "the modules share what is public in `support`")]

mod admin_api;
mod architecture;
mod auth;
mod axum_embed;
mod balancing;
mod cache;
mod cli;
mod client_certificates;
mod compression;
mod config;
mod defects;
mod deploy;
mod dns;
mod docs;
mod docs_checked;
mod errors;
mod forwarding;
mod grpc;
mod grpc_web;
mod h2_origins;
mod h2_pool;
mod life;
mod listeners;
#[cfg(target_os = "linux")]
mod nothing_dropped;
mod observe;
mod origin_requests;
mod origin_wire;
mod policy;
mod pool;
mod rate_limits;
mod reload;
mod renewal;
mod retries;
mod routing;
mod signing;
mod support;
mod timeouts;
mod tls;
mod unix_sockets;
mod upgrade;
mod websocket;
mod wire;
