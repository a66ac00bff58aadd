//! The order of the house: the only file that names every layer.
//!
//! Each concern has one place, and the cheapest rejection comes first. Read
//! [`gateway`] and then [`route`] from top to bottom, and you have followed a
//! request on its way in.

use std::sync::Arc;

use tower::util::Either;
use tower::{Layer, ServiceBuilder};

use super::Common;
use super::admission::{identity_fields, secret_parameters};
use super::limits::Limits;
use super::router::{Router, Terminus};
use crate::balance::{Balance, Hashed, RoundRobin};
use crate::config::{RouteSettings, Settings};
use crate::forward::{Forward, ForwardSettings, HostPolicy, TargetSettings};
use crate::layers::{
    AcceptEncoding, AcceptEncodingLayer, AuthLayer, BandwidthLayer, BodyLimit, BodyLimitLayer,
    CacheLayer, ClientAddress, ClientAddressLayer, CompressionLayer, ConcurrencyLayer, Exchanges,
    ExchangesLayer, Forwarded, ForwardedLayer, Grpc, GrpcLayer, GrpcWebLayer, HeaderRewrite,
    HeaderRewriteLayer, Identify, InFlight, MakeRequestId, MethodsLayer, RateLimitLayer,
    RequestIdLayer, Rescue, RescueLayer, StripIdentity, StripIdentityLayer,
};
use crate::observe::AccessLog;
use crate::route::{ForwardAction, OriginHost, PathPattern};
use crate::serve::{Validate, ValidateLayer};
use crate::upstream::{Balancing, Upstream};

/// What every exchange passes, whatever its route.
pub type Gateway = Exchanges<
    ClientAddress<StripIdentity<Identify<Rescue<Validate<InFlight<Router<RouteStack>>>>>>>,
>;

/// What the exchanges of one route pass.
pub type RouteStack = Optional<
    MethodsLayer,
    Optional<RateLimitLayer, Optional<AuthLayer, Optional<RateLimitLayer, Called>>>,
>;

/// What is left of a route's layers once it is known who asks, and how often.
type Called =
    Optional<ConcurrencyLayer, Optional<BandwidthLayer, Optional<GrpcWebLayer, Grpc<Upwards>>>>;

/// What is left of a route's layers once it is known what a request is.
pub(super) type Upwards = BodyLimit<
    Forwarded<
        HeaderRewrite<AcceptEncoding<Optional<CacheLayer, Optional<CompressionLayer, Terminus>>>>,
    >,
>;

/// The service of a layer that a route may do without.
pub type Optional<L, S> = Either<<L as Layer<S>>::Service, S>;

/// Puts the layers of every exchange around the router.
pub(super) fn gateway<'a>(
    settings: &Settings,
    router: Router<RouteStack>,
    auth: impl Iterator<Item = &'a AuthLayer> + Clone,
    access_log: AccessLog,
    common: &Common,
) -> Gateway {
    ServiceBuilder::new()
        // Opens the exchange's record, and writes log and metrics at its end.
        .layer(
            ExchangesLayer::new(access_log, common.metrics.clone())
                .hiding(secret_parameters(auth.clone())),
        )
        // Whose request it is: everything after this decides by that.
        .layer(ClientAddressLayer::new(&settings.trust))
        // Nobody brings an identity along.
        .layer(StripIdentityLayer::new(identity_fields(auth)))
        // A name for the exchange that client, log and origin share.
        .layer(RequestIdLayer::new(MakeRequestId::default()))
        // Whatever fails below becomes one well-formed response.
        .layer(RescueLayer)
        // Nothing malformed is looked at any further.
        .layer(ValidateLayer)
        // No more at once than Tollgate was told to carry, and has the memory for.
        .layer(common.in_flight.up_to(settings.server.max_in_flight))
        .service(router)
}

/// Puts a route's layers around its end.
pub(super) fn route(
    settings: &RouteSettings,
    all: &Settings,
    limits: &Limits,
    auth: Option<&AuthLayer>,
    cache: Option<&CacheLayer>,
    compression: Option<&CompressionLayer>,
    end: Terminus,
) -> RouteStack {
    let methods = settings.methods.as_ref().map(MethodsLayer::new);
    ServiceBuilder::new()
        // What is not served at all needs no look at who asks.
        .option_layer(methods)
        // Before anything that costs more than a look at the head.
        .option_layer(limits.before.clone())
        // Who asks; a stranger's body is never read.
        .option_layer(auth.cloned())
        // How often that one may ask.
        .option_layer(limits.after.clone())
        // How much of that at once.
        .option_layer(limits.concurrency.clone())
        // How fast it is answered.
        .option_layer(settings.bandwidth.as_ref().map(BandwidthLayer::new))
        // A browser's call becomes one that origins understand.
        .option_layer(settings.grpc.web.then_some(GrpcWebLayer))
        // A call that nobody waits for any more is ended.
        .layer(GrpcLayer::new(&settings.grpc))
        // A body too long is refused before an origin is troubled; one too slow holds
        // nothing up.
        .layer(
            BodyLimitLayer::new(settings.max_request_body, settings.request_body_timeout)
                .at_least(settings.min_request_rate),
        )
        // Where the request came from, in words that the origin may believe.
        .layer(ForwardedLayer::new(&all.trust))
        // What the operator wants of the fields, both ways; it has the last word.
        .layer(HeaderRewriteLayer::new(&settings.headers))
        // Of the codings that the client takes, those that the route has, said in one way:
        // what is stored has few variants.
        .layer(AcceptEncodingLayer::new(settings.compression.as_ref()))
        // What was stored answers, such as it came from the origin: it is looked for by
        // what the origin would see of the request.
        .option_layer(cache.cloned())
        // What the origin sends as it is, compressed once for all to whom it is sent.
        .option_layer(compression.cloned())
        .service(end)
}

/// Forwards a route's requests to `upstream`.
pub(super) fn forward(
    route: &RouteSettings,
    action: &ForwardAction,
    upstream: Arc<Upstream>,
    auth: Option<&AuthLayer>,
    common: &Common,
) -> Result<Forward, http::Error> {
    let (PathPattern::Exact(matched) | PathPattern::Prefix(matched)) = &route.matches.path;
    let host = match &action.host {
        OriginHost::Keep => HostPolicy::Keep,
        OriginHost::Origin => HostPolicy::Origin,
        OriginHost::Set(host) => HostPolicy::Set(host.parse()?),
    };
    let changes = &route.headers.request;
    let identity = auth.into_iter().flat_map(AuthLayer::identity_fields);
    let written = changes.set.iter().chain(&changes.append).map(|(name, _)| name.clone());
    let settings = ForwardSettings {
        target: TargetSettings {
            replace_prefix: action.rewrite_prefix.clone().map(|with| (matched.clone(), with)),
            host,
        },
        upgrades: action.upgrades.clone(),
        vouched: identity.chain(written).collect(),
        way: route.name.clone(),
    };
    let balance: Box<dyn Balance> = match &upstream.settings().balance {
        Balancing::RoundRobin => Box::new(RoundRobin::new(upstream)),
        Balancing::Hash(by) => {
            let by = by.clone();
            Box::new(Hashed::new(upstream, by))
        }
    };
    Ok(Forward::new(balance, settings, common.metrics.clone(), common.drain.clone()))
}
