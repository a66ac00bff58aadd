//! What each part of the request path costs: time, and allocations.
//!
//! ```console
//! $ cargo bench --bench parts
//! $ cargo bench --bench parts -- route    # some of them
//! ```
//!
//! Nothing here touches a socket, so that connections and their pool are not
//! here. A layer is measured around a service that answers at once with nothing;
//! `answer` is that service alone, so what a layer costs is the difference.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Request, Response};
use tollgate::Proxy;
use tollgate::balance::{Balance, Hashed, RoundRobin};
use tollgate::body::Body;
use tollgate::budget::Budget;
use tollgate::config::{RouteSettings, Settings};
use tollgate::context::Downstream;
use tollgate::drain::Watcher;
use tollgate::forward::{Forward, ForwardSettings, TargetSettings};
use tollgate::layers::{
    AddressSettings, Addresses, ApiKey, ApiKeySettings, ApiKeys, AuthLayer, BandwidthLayer,
    BandwidthSettings, BodyLimitLayer, ClientAddressLayer, ConcurrencyLayer, ConcurrencySettings,
    ExchangesLayer, ForwardedLayer, HeaderChanges, HeaderRewriteLayer, HeaderRewriteSettings,
    InFlightLayer, KeyDigest, Limit, LimitKey, LimitKeyPart, RateLimitLayer, RateLimitSettings,
    RescueLayer, TrustSettings,
};
use tollgate::observe::{AccessLog, AccessLogFormat, AccessLogSettings, LogOutput, Metrics};
use tollgate::pace::Quota;
use tollgate::route::{Action, FixedResponse, Match, PathPattern, Table};
use tollgate::serve::ValidateLayer;
use tollgate::upstream::{HashBy, Origin, OriginSettings, Upstream, UpstreamSettings};
use tower::{Layer, Service};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Answers at once with nothing.
#[derive(Clone)]
struct Nothing;

impl Service<Request<Body>> for Nothing {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Body::empty())))
    }
}

/// A request as a browser or a script sends it.
fn request(path: &str) -> Request<Body> {
    let peer: SocketAddr = ([127, 0, 0, 1], 50_000).into();
    let downstream = Downstream { peer: Some(peer), ..Downstream::default() };
    let built = Request::get(path)
        .header("host", "example.com")
        .header("user-agent", "bench/1.0")
        .header("accept", "*/*")
        .header("x-api-key", "a-key-of-some-length")
        .extension(Arc::new(downstream))
        .body(Body::empty());
    built.unwrap_or_default()
}

fn settings<T: Default>(change: impl FnOnce(&mut T)) -> T {
    let mut settings = T::default();
    change(&mut settings);
    settings
}

fn ask<S>(bencher: Bencher<'_, '_>, mut service: S)
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    bencher
        .counter(ItemsCount::new(1_u32))
        .with_inputs(|| request("/path/to/a/thing?with=query"))
        .bench_local_values(|request| service.call(request).now_or_never().map(|_| ()));
}

mod layer {
    use super::*;

    #[divan::bench]
    fn answer(bencher: Bencher<'_, '_>) {
        ask(bencher, Nothing);
    }

    #[divan::bench]
    fn exchanges(bencher: Bencher<'_, '_>) {
        ask(bencher, ExchangesLayer::new(AccessLog::off(), Metrics::default()).layer(Nothing));
    }

    #[divan::bench(args = [AccessLogFormat::Text, AccessLogFormat::Json])]
    fn exchanges_with_log(bencher: Bencher<'_, '_>, format: AccessLogFormat) {
        let output = LogOutput::File("/dev/null".into());
        let Ok(log) = AccessLog::open(&AccessLogSettings { output, format }) else { return };
        ask(bencher, ExchangesLayer::new(log, Metrics::default()).layer(Nothing));
    }

    #[divan::bench]
    fn client_address(bencher: Bencher<'_, '_>) {
        ask(bencher, ClientAddressLayer::new(&TrustSettings::default()).layer(Nothing));
    }

    #[divan::bench]
    fn rescue(bencher: Bencher<'_, '_>) {
        ask(bencher, RescueLayer.layer(Nothing));
    }

    #[divan::bench]
    fn validate(bencher: Bencher<'_, '_>) {
        ask(bencher, ValidateLayer.layer(Nothing));
    }

    #[divan::bench]
    fn in_flight(bencher: Bencher<'_, '_>) {
        ask(bencher, InFlightLayer::new(1_000).layer(Nothing));
    }

    /// A bucket stays for as long as it takes to refill, here ten minutes and longer.
    fn lasting(key: LimitKey) -> RateLimitSettings {
        let quota = Quota::new(NonZeroU32::MIN, std::time::Duration::from_secs(600));
        let burst = NonZeroU32::MIN.saturating_add(500_000);
        RateLimitSettings { max_keys: 2_000_000, ..RateLimitSettings::new(quota.burst(burst), key) }
    }

    /// Requests of so many clients, each in its turn, with this in a field.
    fn from_many(clients: u32) -> impl FnMut() -> Request<Body> {
        let mut next = 0_u32;
        move || {
            // Far from the one before it, as clients are.
            next = (next + 1) % clients;
            let address = next.wrapping_mul(0x9e37_79b1);
            let peer = SocketAddr::from((address.to_be_bytes(), 50_000));
            let mut request = request("/path/to/a/thing?with=query");
            let tenant = HeaderValue::from(address);
            request.headers_mut().insert("x-tenant", tenant);
            request
                .extensions_mut()
                .insert(Arc::new(Downstream { peer: Some(peer), ..Downstream::default() }));
            request
        }
    }

    fn limited(bencher: Bencher<'_, '_>, limit: &RateLimitLayer, clients: u32) {
        let mut service = limit.layer(Nothing);
        let mut from_the_next = from_many(clients);
        for _ in 0..clients {
            service.call(from_the_next()).now_or_never();
        }
        bencher
            .counter(ItemsCount::new(1_u32))
            .with_inputs(from_the_next)
            .bench_local_values(|request| service.call(request).now_or_never().map(|_| ()));
    }

    /// Among so many clients that are remembered, each in its turn.
    #[divan::bench(args = [1, 10_000, 1_000_000])]
    fn rate_limit(bencher: Bencher<'_, '_>, clients: u32) {
        limited(bencher, &RateLimitLayer::new(&lasting(LimitKey::default())), clients);
    }

    /// The same, where the client is told.
    #[divan::bench(args = [10_000])]
    fn rate_limit_telling(bencher: Bencher<'_, '_>, clients: u32) {
        let limit = RateLimitLayer::new(&lasting(LimitKey::default())).telling(true);
        limited(bencher, &limit, clients);
    }

    /// The same by a field.
    #[divan::bench(args = [1, 10_000, 1_000_000])]
    fn rate_limit_by_field(bencher: Bencher<'_, '_>, clients: u32) {
        let field = HeaderName::from_static("x-tenant");
        let key = LimitKey::from(LimitKeyPart::Header(field));
        limited(bencher, &RateLimitLayer::new(&lasting(key)), clients);
    }

    /// Two limits, one of them for all together.
    #[divan::bench(args = [10_000])]
    fn rate_limits(bencher: Bencher<'_, '_>, clients: u32) {
        let limits = [LimitKey::default(), LimitKeyPart::Route.into()];
        let limits = limits.map(|key| Limit::new(&lasting(key)));
        limited(bencher, &RateLimitLayer::of(limits), clients);
    }

    #[divan::bench(args = [1, 10_000])]
    fn concurrency(bencher: Bencher<'_, '_>, clients: u32) {
        let max = NonZeroU32::MIN.saturating_add(9);
        let settings = ConcurrencySettings { max, key: LimitKey::default() };
        let mut service = ConcurrencyLayer::new(&settings).layer(Nothing);
        bencher
            .counter(ItemsCount::new(1_u32))
            .with_inputs(from_many(clients))
            .bench_local_values(|request| service.call(request).now_or_never().map(|_| ()));
    }

    /// Of a response that is short enough not to be held back.
    #[divan::bench]
    fn bandwidth(bencher: Bencher<'_, '_>) {
        let response = std::num::NonZeroU64::MIN.saturating_add(1 << 20);
        let settings = BandwidthSettings { response, burst: BandwidthSettings::BURST };
        ask(bencher, BandwidthLayer::new(&settings).layer(Nothing));
    }

    #[divan::bench(args = [1, 100, 10_000])]
    fn api_key(bencher: Bencher<'_, '_>, keys: usize) {
        let key = |index: usize| {
            let secret =
                if index == 0 { "a-key-of-some-length".to_owned() } else { format!("{index}") };
            ApiKey::new(format!("client-{index}"), KeyDigest::of(secret.as_bytes()))
        };
        let keys = ApiKeySettings::new((0..keys).map(key));
        ask(bencher, AuthLayer::by(ApiKeys::new(&keys)).layer(Nothing));
    }

    #[divan::bench(args = [1, 10_000])]
    fn address(bencher: Bencher<'_, '_>, networks: u32) {
        let network = |index: u32| {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 | index << 4);
            ipnet::IpNet::new_assert(address.into(), 28)
        };
        let deny = (0..networks).map(network).collect();
        let settings = AddressSettings { allow: Vec::new(), deny };
        ask(bencher, AuthLayer::by(Addresses::new(&settings)).layer(Nothing));
    }

    #[divan::bench]
    fn body_limit(bencher: Bencher<'_, '_>) {
        let minute = std::time::Duration::from_secs(60);
        ask(bencher, BodyLimitLayer::new(Some(1 << 20), minute).layer(Nothing));
    }

    #[divan::bench]
    fn forwarded(bencher: Bencher<'_, '_>) {
        ask(bencher, ForwardedLayer::new(&TrustSettings::default()).layer(Nothing));
    }

    #[divan::bench]
    fn header_rewrite(bencher: Bencher<'_, '_>) {
        let rewrite = settings(|rewrite: &mut HeaderRewriteSettings| {
            rewrite.response = HeaderChanges::response_defaults();
        });
        ask(bencher, HeaderRewriteLayer::new(&rewrite).layer(Nothing));
    }
}

mod route {
    use super::*;

    fn table(routes: usize) -> Option<Table<usize>> {
        let route = |index: usize| {
            let host = format!("host-{}.example.com", index % 100).parse().ok();
            let path = PathPattern::Prefix(format!("/service/{index}"));
            (Match { hosts: host.into_iter().collect(), path }, index)
        };
        Table::build((0..routes).map(route).collect()).ok()
    }

    #[divan::bench(args = [10, 1_000, 10_000])]
    fn find(bencher: Bencher<'_, '_>, routes: usize) {
        let Some(table) = table(routes) else { return };
        let last = routes - 1;
        let (host, path) =
            (format!("host-{}.example.com", last % 100), format!("/service/{last}/thing"));
        bencher.bench_local(|| table.find(black_box(Some(&host)), black_box(&path)).copied());
    }
}

mod upstream {
    use super::*;

    fn upstream(origins: u16, weight: impl Fn(u16) -> u32) -> Option<Arc<Upstream>> {
        let origin = |index: u16| {
            let url = format!("http://127.0.0.1:{}", 1_000 + index).parse().ok()?;
            Some(OriginSettings { weight: weight(index), ..OriginSettings::new(url) })
        };
        let settings = UpstreamSettings::new("bench", (0..origins).filter_map(origin).collect());
        Upstream::new(settings, Metrics::default(), Budget::unlimited()).ok()
    }

    #[divan::bench(args = [1, 10, 1_000])]
    fn pick(bencher: Bencher<'_, '_>, origins: u16) {
        let Some(upstream) = upstream(origins, |_| 1) else { return };
        let balance = RoundRobin::new(upstream);
        bencher.bench_local(|| balance.pick(0, &[]));
    }

    /// By a key that is another each time.
    #[divan::bench(args = [1, 10, 1_000])]
    fn pick_hashed(bencher: Bencher<'_, '_>, origins: u16) {
        picks(bencher, upstream(origins, |_| 1));
    }

    #[divan::bench(args = [10, 1_000])]
    fn pick_hashed_weighted(bencher: Bencher<'_, '_>, origins: u16) {
        picks(bencher, upstream(origins, |index| 1 + u32::from(index % 7)));
    }

    fn picks(bencher: Bencher<'_, '_>, upstream: Option<Arc<Upstream>>) {
        let Some(upstream) = upstream else { return };
        let balance = Hashed::new(upstream, HashBy::Client);
        let mut key = 0_u64;
        bencher.bench_local(|| {
            key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
            balance.pick(key, &[])
        });
    }

    #[divan::bench]
    fn hash_of_a_url(bencher: Bencher<'_, '_>) {
        let Some(upstream) = upstream(1, |_| 1) else { return };
        let balance = Hashed::new(upstream, HashBy::Url { ignore_query: Vec::new() });
        let uri = "/images/2026/11/a-picture-of-something.webp?width=640&height=480";
        let request = Request::get(uri).header("host", "www.example.com").body(Body::empty());
        let Ok(request) = request else { return };
        bencher.bench_local(|| balance.key(black_box(&request)));
    }
}

mod forward {
    use super::*;

    /// Picks nothing, so that a request is made ready to be sent and then is not.
    #[derive(Debug)]
    struct Nobody(Arc<Upstream>);

    impl Balance for Nobody {
        fn pick(&self, _key: u64, _tried: &[Arc<Origin>]) -> Option<Arc<Origin>> {
            None
        }

        fn upstream(&self) -> &Arc<Upstream> {
            &self.0
        }
    }

    /// Target, hop-by-hop fields and `Via`, with so many fields that end at the
    /// proxy; and the error that there is no origin.
    #[divan::bench(args = [0, 4])]
    fn prepare(bencher: Bencher<'_, '_>, hop_by_hop: usize) {
        let origin = "http://127.0.0.1:1000".parse().ok().map(OriginSettings::new);
        let settings = UpstreamSettings::new("bench", origin.into_iter().collect());
        let Ok(upstream) = Upstream::new(settings, Metrics::default(), Budget::unlimited()) else {
            return;
        };
        let told = ForwardSettings {
            target: TargetSettings::default(),
            upgrades: vec!["websocket".to_owned()],
            vouched: Vec::new(),
            way: "bench".to_owned(),
        };
        let nobody = Box::new(Nobody(upstream));
        let mut forward = Forward::new(nobody, told, Metrics::default(), Watcher::never());
        let fields = [
            ("connection", "x-one, x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("keep-alive", "timeout=5"),
        ];
        bencher
            .counter(ItemsCount::new(1_u32))
            .with_inputs(|| {
                let mut request = request("/path/to/a/thing?with=query");
                for (name, value) in &fields[..hop_by_hop] {
                    request.headers_mut().insert(*name, HeaderValue::from_static(value));
                }
                request
            })
            .bench_local_values(|request| forward.call(request).now_or_never().map(|_| ()));
    }
}

mod path {
    use super::*;

    /// Every layer, to a fixed answer.
    #[divan::bench(args = [1, 10_000])]
    fn whole(bencher: Bencher<'_, '_>, routes: usize) {
        let fixed = |_| {
            Action::Respond(FixedResponse {
                status: http::StatusCode::OK,
                content_type: "text/plain".to_owned(),
                body: "ok".to_owned(),
            })
        };
        let route = |index: usize| {
            let path = if index == 0 { "/path".to_owned() } else { format!("/other/{index}") };
            let matches = Match { path: PathPattern::Prefix(path), ..Match::default() };
            RouteSettings::new(format!("route-{index}"), matches, fixed(()))
        };
        let built = Proxy::build(settings(|settings: &mut Settings| {
            settings.routes = (0..routes).map(route).collect();
            settings.access_log.output = LogOutput::Off;
        }));
        let Ok(proxy) = built else { return };
        ask(bencher, proxy.into_service());
    }
}

/// Message signatures over method, authority, path and query.
mod signature {
    use super::*;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};
    use std::time::SystemTime;
    use tollgate::layers::{SignatureKey, SignatureSettings, Signatures};
    use tollgate::signature::{
        Algorithm, Message, Scheme, SignSettings, Signer, SigningKey, VerifyingKey,
    };

    const ALGORITHMS: [Algorithm; 3] =
        [Algorithm::HmacSha256, Algorithm::Ed25519, Algorithm::EcdsaP256Sha256];

    fn keys(algorithm: Algorithm) -> Option<(SigningKey, VerifyingKey)> {
        let of = match algorithm {
            Algorithm::Ed25519 => &PKCS_ED25519,
            Algorithm::EcdsaP256Sha256 => &PKCS_ECDSA_P256_SHA256,
            _ => {
                let secret = [7; 32];
                return SigningKey::secret(&secret).ok().zip(VerifyingKey::secret(&secret).ok());
            }
        };
        let pair = KeyPair::generate_for(of).ok()?;
        let signing = SigningKey::private(algorithm, &pair.serialize_der()).ok()?;
        let public = pair.subject_public_key_info();
        Some((signing, VerifyingKey::public(algorithm, &public).ok()?))
    }

    fn sign(settings: &SignSettings, request: &mut Request<Body>) {
        let message = Message {
            method: request.method(),
            scheme: Scheme::Http,
            authority: "example.com",
            target: request.uri(),
            is_absolute: false,
            headers: request.headers(),
        };
        if let Ok(fields) = Signer::new(settings).sign(&message, SystemTime::now()) {
            request.headers_mut().extend(fields.map(|(name, value)| (Some(name), value)));
        }
    }

    #[divan::bench(args = ALGORITHMS)]
    fn made(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
        let Some((key, _)) = keys(algorithm) else { return };
        let settings = SignSettings::new(key, "bench");
        bencher
            .counter(ItemsCount::new(1_u32))
            .with_inputs(|| request("/path/to/a/thing?with=query"))
            .bench_local_refs(|request| sign(&settings, request));
    }

    #[divan::bench(args = ALGORITHMS)]
    fn verified(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
        let Some((signing, verifying)) = keys(algorithm) else { return };
        let known = SignatureKey::new("bench", "bench", verifying);
        let mut settings = SignatureSettings::new(vec![known]);
        settings.max_remembered = usize::MAX / 2;
        let mut service = AuthLayer::by(Signatures::new(&settings)).layer(Nothing);
        let made = SignSettings::new(signing, "bench");
        let signed = || {
            let mut request = request("/path/to/a/thing?with=query");
            sign(&made, &mut request);
            request
        };
        bencher
            .counter(ItemsCount::new(1_u32))
            .with_inputs(signed)
            .bench_local_values(|request| service.call(request).now_or_never().map(|_| ()));
    }
}
