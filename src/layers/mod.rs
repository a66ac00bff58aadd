//! The layers of the request path, each usable in anyone's tower stack.
//!
//! In the order in which a request meets them:
//!
//! | layer | what it does |
//! |---|---|
//! | [`ExchangesLayer`] | opens the exchange's record, writes log and metrics at its end |
//! | [`ClientAddressLayer`] | derives the client's address from trusted proxies |
//! | [`StripIdentityLayer`] | takes identity fields out that a client brings along |
//! | [`RequestIdLayer`] | names the exchange for client, log and origin |
//! | [`RescueLayer`] | turns errors and panics into responses |
//! | [`InFlightLayer`] | bounds the exchanges under way |
//! | [`MethodsLayer`] | lets only a route's own methods in |
//! | [`RateLimitLayer`] | bounds how often a client address asks |
//! | [`AuthLayer`] | lets only those in whom its schemes know |
//! | [`GrpcWebLayer`] | makes gRPC calls of gRPC-Web calls |
//! | [`GrpcLayer`] | ends gRPC calls at their deadline |
//! | [`BodyLimitLayer`] | bounds the request's body |
//! | [`ForwardedLayer`] | tells the origin where the request came from |
//! | [`HeaderRewriteLayer`] | changes fields both ways |
//! | [`AcceptEncodingLayer`] | names the codings that the route offers, and no others |
//! | [`CacheLayer`] | answers from what was stored |
//! | [`CompressionLayer`] | compresses responses |
//!
//! A layer has one of three shapes. *Header-only*: it edits what passes, and
//! its future is the inner one. *Short-circuit*: it answers or passes on, and
//! its future is [`ShortCircuit`]. *Awaiting*: it must wait before it can
//! decide, and boxes its body inside a named future, as [`Cached`] does where it has to
//! ask or to wait for another who asks.
//!
//! A layer reads and writes the [`Exchange`](crate::context::Exchange) in the
//! request's extensions, and does without if there is none.

mod ask;
mod auth;
mod body_limit;
mod cache;
mod client_address;
mod compress;
mod exchanges;
mod forwarded;
mod grpc;
mod grpc_web;
mod header_rewrite;
mod in_flight;
mod methods;
mod rate_limit;
mod request_id;
mod rescue;
mod settings;
mod short_circuit;
mod twins;

pub use ask::Ask;
pub use auth::{
    AddressSettings, Addresses, ApiKey, ApiKeySettings, ApiKeys, Asked, Auth, AuthFuture,
    AuthLayer, AuthMeans, AuthSettings, Authenticate, AuthenticatorSettings, Basic, BasicSettings,
    BasicUser, Changes, CustomScheme, Grant, HtpasswdFault, Judging, MAX_PASSWORD, PasswordError,
    PasswordHash, PasswordHashError, PasswordScheme, RedisKeySettings, SchemeSettings,
    StripIdentity, StripIdentityLayer, Verdict, check_key_name, check_scope, check_user,
    parse_htpasswd,
};
#[cfg(feature = "jwt")]
pub use auth::{JsonWebTokens, JwtKeyError, JwtSetupError, OidcSetupError, OpenIdConnect};
pub use auth::{
    JwksSettings, JwtAlgorithm, JwtKeys, JwtPublicKey, JwtRules, JwtSettings, OidcSettings,
    SharedSecret, TokenPlace, UnknownAlgorithm,
};
pub use body_limit::{BodyLimit, BodyLimitLayer};
use cache::list_members;
pub use cache::{
    Cache, CacheDiskError, CacheDiskSettings, CacheEntry, CacheFigures, CacheFleetSettings,
    CacheFuture, CacheKeySettings, CacheLayer, CacheRouteFigures, CacheSettings, CacheShown,
    CacheVariant, Cached, Fleet, FleetFigures, FleetPosition, Purge, Purged, Told,
};
pub use client_address::{ClientAddress, ClientAddressLayer};
pub use compress::{
    AcceptEncoding, AcceptEncodingLayer, Compressed, CompressionFuture, CompressionLayer,
    CompressionLevel, CompressionSettings, ContentCoding, MediaPattern,
};
pub use exchanges::{Exchanges, ExchangesFuture, ExchangesLayer};
pub use forwarded::{Forwarded, ForwardedLayer};
pub use grpc::{Grpc, GrpcFuture, GrpcLayer};
pub use grpc_web::{GrpcWeb, GrpcWebFuture, GrpcWebLayer};
pub use header_rewrite::{HeaderRewrite, HeaderRewriteFuture, HeaderRewriteLayer};
pub use in_flight::{Holding, InFlight, InFlightLayer};
pub use methods::{Methods, MethodsLayer};
pub use rate_limit::{RateLimit, RateLimitLayer};
pub use request_id::{Identified, Identify, MakeRequestId, REQUEST_ID, RequestIdLayer};
pub use rescue::{Rescue, RescueFuture, RescueLayer};
pub use settings::{
    GrpcSettings, HeaderChanges, HeaderRewriteSettings, KeyDigest, MethodSettings,
    RateLimitSettings, TrustSettings,
};
pub use short_circuit::ShortCircuit;
pub(crate) use twins::are_twins;
