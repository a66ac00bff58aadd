//! Upstreams that are renewed, against a name server of the test's own: nothing
//! that is known of a name is asked for again or lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tollgate::body::Body;
use tollgate::budget::Budget;
use tollgate::observe::Metrics;
use tollgate::upstream::{
    DnsSettings, OriginChange, OriginSettings, Resolver, Reuse, Upstream, UpstreamSettings,
};

use crate::support::dns::{Mood, NameServer};
use crate::support::origin::Origin;
use crate::support::{eventually, within};

fn settings(url: &str) -> UpstreamSettings {
    UpstreamSettings::new("test", vec![OriginSettings::new(url.parse().unwrap())])
}

fn resolver(server: &NameServer) -> Arc<Resolver> {
    Resolver::new(DnsSettings {
        servers: vec![server.address],
        min_ttl: Duration::from_millis(20),
        negative_ttl: Duration::from_millis(20),
        timeout: Duration::from_secs(2),
        ..DnsSettings::default()
    })
}

fn fresh(settings: UpstreamSettings, server: &NameServer) -> Arc<Upstream> {
    let (metrics, budget) = (Metrics::default(), Budget::unlimited());
    Upstream::with_resolver(settings, resolver(server), metrics, budget).unwrap()
}

fn renewed(old: &Arc<Upstream>, settings: UpstreamSettings, server: &NameServer) -> Arc<Upstream> {
    let (metrics, budget) = (Metrics::default(), Budget::unlimited());
    Upstream::renewed(old, settings, resolver(server), metrics, budget).unwrap()
}

fn names(upstream: &Upstream) -> Vec<String> {
    upstream.status().origins.into_iter().map(|origin| origin.name).collect()
}

#[tokio::test]
async fn a_renewal_asks_nothing_that_is_known() {
    within(async {
        let server = NameServer::start().await;
        server.addresses("a.test", 3_600, &["192.0.2.1", "192.0.2.2"]);
        server.service("_http._tcp.b.test", 3_600, &[(0, 3, 81, "t.test"), (0, 1, 82, "u.test")]);
        server.addresses("t.test", 3_600, &["192.0.2.3"]);
        server.addresses("u.test", 3_600, &["192.0.2.4"]);
        let mut both = settings("http://a.test:80");
        both.origins.push(OriginSettings::new("srv+http://_http._tcp.b.test".parse().unwrap()));
        both.each_address = true;
        let mut upstream = fresh(both.clone(), &server);
        let mut keeping = tokio::spawn(upstream.clone().keep());
        let all = ["a.test:80/192.0.2.1", "a.test:80/192.0.2.2", "t.test:81", "u.test:82"];
        let asked = || {
            ["a.test", "_http._tcp.b.test", "t.test", "u.test"]
                .map(|name| server.questions(name).len())
        };
        eventually("all are known", async || names(&upstream) == all).await;
        eventually("all are asked for", async || asked() == [2, 1, 2, 2]).await;
        let origins = upstream.origins();

        for round in 0..20 {
            let mut other = both.clone();
            other.passive.max_failures = round;
            let new = renewed(&upstream, other, &server);
            new.succeed(&upstream);
            keeping.await.unwrap();
            keeping = tokio::spawn(new.clone().keep());
            upstream = new;
            tokio::task::yield_now().await;
        }
        assert_eq!(names(&upstream), all);
        for (old, new) in origins.iter().zip(upstream.origins()) {
            assert!(Arc::ptr_eq(old, &new));
        }
        // Another name that is resolved by now shows that the others would have
        // been asked for.
        both.origins.push(OriginSettings::new("http://c.test:80".parse().unwrap()));
        server.addresses("c.test", 3_600, &["192.0.2.9"]);
        let new = renewed(&upstream, both, &server);
        new.succeed(&upstream);
        keeping.await.unwrap();
        let keeping = tokio::spawn(new.clone().keep());
        eventually("the new one is known", async || {
            names(&new).contains(&"c.test:80/192.0.2.9".to_owned())
        })
        .await;
        assert_eq!(asked(), [2, 1, 2, 2]);
        keeping.abort();
    })
    .await;
}

#[tokio::test]
async fn what_changes_while_a_renewal_is_built_is_not_lost() {
    within(async {
        let server = NameServer::start().await;
        let targets = |targets: &[(u16, u16, u16, &str)]| {
            server.service("_http._tcp.b.test", 0, targets);
        };
        targets(&[(0, 1, 81, "t.test")]);
        let service = settings("srv+http://_http._tcp.b.test");
        let old = fresh(service.clone(), &server);
        let keeping = tokio::spawn(old.clone().keep());
        eventually("one is known", async || names(&old) == ["t.test:81"]).await;
        let new = renewed(&old, service, &server);
        targets(&[(0, 1, 81, "t.test"), (0, 1, 82, "u.test")]);
        eventually("there is another", async || names(&old) == ["t.test:81", "u.test:82"]).await;
        assert_eq!(names(&new), ["t.test:81"]);
        new.succeed(&old);
        assert_eq!(names(&new), ["t.test:81", "u.test:82"]);
        for (old, new) in old.origins().iter().zip(new.origins()) {
            assert!(Arc::ptr_eq(old, &new));
        }
        keeping.await.unwrap();
        let keeping = tokio::spawn(new.clone().keep());
        targets(&[(0, 1, 82, "u.test")]);
        eventually("one has left", async || names(&new) == ["u.test:82"]).await;
        keeping.abort();
    })
    .await;
}

#[tokio::test]
async fn another_resolver_is_asked_at_once_and_what_was_known_stays() {
    within(async {
        let (first, second) = (NameServer::start().await, NameServer::start().await);
        first.addresses("a.test", 3_600, &["192.0.2.1"]);
        second.addresses("a.test", 3_600, &["192.0.2.2"]);
        second.mood("a.test", Mood::Failing);
        let each = UpstreamSettings { each_address: true, ..settings("http://a.test:80") };
        let old = fresh(each.clone(), &first);
        let keeping = tokio::spawn(old.clone().keep());
        eventually("it is known", async || names(&old) == ["a.test:80/192.0.2.1"]).await;
        let new = renewed(&old, each, &second);
        new.succeed(&old);
        keeping.await.unwrap();
        let keeping = tokio::spawn(new.clone().keep());
        eventually("the other is asked", async || second.questions("a.test").len() > 2).await;
        assert_eq!(names(&new), ["a.test:80/192.0.2.1"]);
        second.mood("a.test", Mood::Good);
        eventually("it has moved", async || names(&new) == ["a.test:80/192.0.2.2"]).await;
        keeping.abort();
    })
    .await;
}

#[tokio::test]
async fn orders_are_handed_on_to_origins_that_are_still_to_appear() {
    within(async {
        let server = NameServer::start().await;
        server.addresses("a.test", 3_600, &["192.0.2.1", "192.0.2.2"]);
        let each = UpstreamSettings { each_address: true, ..settings("http://a.test:80") };
        let before = fresh(each.clone(), &server);
        let drain = OriginChange { drained: Some(true), ..OriginChange::default() };
        let unknown = before.set_origin("a.test:80/192.0.2.1", &drain).unwrap_err();
        assert_eq!(unknown.known, ["a.test:80"]);
        let keeping = tokio::spawn(before.clone().keep());
        eventually("both are known", async || names(&before).len() == 2).await;
        before.set_origin("a.test:80/192.0.2.1", &drain).unwrap();
        let weigh = OriginChange { weight: Some(5), ..OriginChange::default() };
        before.set_origin("a.test:80/192.0.2.2", &weigh).unwrap();
        keeping.abort();

        let after = fresh(each, &server);
        let overrides = before.overrides();
        after.take_over(overrides.clone());
        assert_eq!(after.overrides(), overrides, "to be handed on again");
        let keeping = tokio::spawn(after.clone().keep());
        eventually("both are known", async || names(&after).len() == 2).await;
        assert_eq!(after.overrides(), overrides);
        assert_eq!(after.rotation().weights, [5]);
        keeping.abort();
    })
    .await;
}

#[tokio::test]
async fn streams_on_a_drained_origin_end_and_then_their_connection() {
    within(async {
        const LENGTH: usize = 1 << 20;
        let origin = Origin::h2c(|_| Response::new(Full::new(Bytes::from(vec![7; LENGTH])))).await;
        let (metrics, budget) = (Metrics::default(), Budget::unlimited());
        let upstream = Upstream::new(settings(&origin.to_string()), metrics, budget).unwrap();
        let ask = async || {
            let request = Request::builder().uri("/").body(Body::empty()).unwrap();
            let (mut slot, now) = (Some(request), tokio::time::Instant::now());
            let origin = upstream.origins()[0].clone();
            origin.send(&mut slot, Reuse::Any, None, now, None).await.unwrap().response
        };
        let open = || upstream.status().origins[0].open_connections;
        let under_way = ask().await;
        let drained = |drained| OriginChange { drained: Some(drained), ..OriginChange::default() };
        upstream.set_origin(&origin.to_string(), &drained(true)).unwrap();
        assert!(upstream.rotation().origins.is_empty());
        assert_eq!(open(), 1);
        let body = under_way.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), LENGTH);
        eventually("the connection is closed", async || open() == 0).await;
        upstream.set_origin(&origin.to_string(), &drained(false)).unwrap();
        ask().await.into_body().collect().await.unwrap();
        ask().await.into_body().collect().await.unwrap();
        assert_eq!((open(), origin.connections()), (1, 2));
    })
    .await;
}
