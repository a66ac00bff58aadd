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
//! | [`RateLimitLayer`] | bounds how often a client, or whatever else one counts by, asks |
//! | [`AuthLayer`] | lets only those in whom its schemes know |
//! | [`ConcurrencyLayer`] | bounds the exchanges under way of one client |
//! | [`BandwidthLayer`] | bounds how fast a response is sent |
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
mod bandwidth;
mod body_limit;
mod cache;
mod client_address;
mod compress;
mod concurrency;
mod exchanges;
mod forwarded;
mod grpc;
mod grpc_web;
mod header_rewrite;
mod holding;
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
    AuthLayer, AuthMeans, AuthSettings, Authenticate, Authenticator, AuthenticatorSettings, Basic,
    BasicSettings, BasicUser, Changes, CustomScheme, DecisionCacheSettings, FailureCount,
    ForwardAuth, ForwardAuthSettings, Grant, HtpasswdFault, Judging, JwksSettings, JwtAlgorithm,
    JwtKeys, JwtPublicKey, JwtRules, JwtSettings, KeyPart, MAX_PASSWORD, Mtls, MtlsName,
    MtlsSettings, NamePattern, OidcSettings, PasswordError, PasswordHash, PasswordHashError,
    PasswordScheme, PatternError, RedisKeySettings, SchemeSettings, SharedSecret, SignatureKey,
    SignatureSettings, Signatures, StripIdentity, StripIdentityLayer, SubjectNamePattern,
    TokenPlace, ToldFields, UnknownAlgorithm, Verdict, check_key_name, check_key_prefix,
    check_scope, check_user, parse_htpasswd,
};
#[cfg(feature = "jwt")]
pub use auth::{JsonWebTokens, JwtKeyError, JwtSetupError, OidcSetupError, OpenIdConnect};
pub use bandwidth::{Bandwidth, BandwidthFuture, BandwidthLayer, BandwidthSettings};
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
pub use concurrency::{Concurrency, ConcurrencyLayer, ConcurrencySettings};
pub use exchanges::{Exchanges, ExchangesFuture, ExchangesLayer};
pub use forwarded::{Forwarded, ForwardedLayer};
pub use grpc::{Grpc, GrpcFuture, GrpcLayer};
pub use grpc_web::{GrpcWeb, GrpcWebFuture, GrpcWebLayer};
pub use header_rewrite::{HeaderRewrite, HeaderRewriteFuture, HeaderRewriteLayer};
pub use holding::Holding;
pub use in_flight::{InFlight, InFlightLayer};
pub use methods::{Methods, MethodsLayer};
#[cfg(feature = "redis")]
pub use rate_limit::{Checked, DecidedBy, Deciding, Decision, SharedLimiter, SharedLimits};
pub use rate_limit::{
    CostSettings, Limit, LimitKey, LimitKeyPart, OnFailure, RateLimit, RateLimitFuture,
    RateLimitLayer, RateLimitSettings, SharedSettings,
};
pub use request_id::{Identified, Identify, MakeRequestId, REQUEST_ID, RequestIdLayer};
pub use rescue::{Rescue, RescueFuture, RescueLayer};
pub use settings::{
    GrpcSettings, HeaderChanges, HeaderRewriteSettings, KeyDigest, MethodSettings, TrustSettings,
};
pub use short_circuit::ShortCircuit;
pub(crate) use twins::{are_twins, begins_like};
