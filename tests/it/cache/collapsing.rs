//! Many requests for one thing that nobody has yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{cached, get, ok, origin, said};
use crate::support::client::{Answer, Raw, get as fetch};
use crate::support::origin::Origin;
use crate::support::proxy::Running;
use crate::support::{eventually, within};

const FRESH: &str = "Cache-Control: max-age=60\r\n";

/// Answers each request once `gate` lets it.
async fn gated(gate: &Arc<Semaphore>, head: &'static str, rest: &'static str) -> Origin {
    let gate = gate.clone();
    Origin::scripted(move |mut connection| {
        let gate = gate.clone();
        async move {
            while connection.request().await.is_some() {
                connection.write(head).await;
                gate.acquire().await.unwrap().forget();
                connection.write(rest).await;
            }
        }
    })
    .await
}

/// A proxy that takes a thousand connections of one client.
fn roomy(origin: &Origin) -> Running {
    let lines = "workers = 2\nmax_connections_per_client = 2000";
    cached(origin, "collapse_wait = \"1m\"").server(lines).start()
}

/// Has so many ask for the same, and waits until the proxy has them all; others may be
/// there besides.
async fn stampede(proxy: &Running, count: usize, besides: usize) -> Vec<JoinHandle<Answer>> {
    let address = proxy.address;
    let all = (0..count).map(|_| tokio::spawn(async move { fetch(address, "/", "").await }));
    let all = all.collect();
    let open = format!("connections_open{{listener=\"public\"}} {}\n", count + besides);
    eventually("all of them are in", async || super::metrics(proxy).await.contains(&open)).await;
    all
}

/// How many of them were collapsed; all have to have got this.
async fn collapsed(all: Vec<JoinHandle<Answer>>, body: &str) -> usize {
    let mut collapsed = 0;
    for one in all {
        let answer = one.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
        collapsed += usize::from(said(&answer).contains("collapsed"));
    }
    collapsed
}

#[tokio::test]
async fn a_thousand_requests_for_a_cold_object_are_one_to_the_origin() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: max-age=60\r\n\r\nbody";
        let origin = gated(&gate, "", answer).await;
        let proxy = roomy(&origin);
        let all = stampede(&proxy, 1_000, 0).await;
        gate.add_permits(1000);
        assert!(collapsed(all, "body").await > 0);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_thousand_requests_for_an_object_that_comes_slowly_are_one_to_the_origin() {
    within(async {
        const PIECES: usize = 20;
        let gate = Arc::new(Semaphore::new(0));
        let piece = |at: usize| format!("{at:03}").repeat(1000);
        let origin = Origin::scripted({
            let gate = gate.clone();
            move |mut connection| {
                let gate = gate.clone();
                async move {
                    while connection.request().await.is_some() {
                        connection.write(format!("HTTP/1.1 200 OK\r\n{FRESH}")).await;
                        connection
                            .write(format!("Content-Length: {}\r\n\r\n", PIECES * 3000))
                            .await;
                        for at in 0..PIECES {
                            gate.acquire().await.unwrap().forget();
                            connection.write(piece(at)).await;
                        }
                    }
                }
            }
        })
        .await;
        let proxy = roomy(&origin);
        let mut all = stampede(&proxy, 500, 0).await;
        gate.add_permits(PIECES / 2);
        // The others come when a half of it is there.
        all.extend(stampede(&proxy, 500, 500).await);
        for _ in 0..PIECES / 2 {
            gate.add_permits(1);
            tokio::task::yield_now().await;
        }
        let whole: String = (0..PIECES).map(piece).collect();
        assert!(collapsed(all, &whole).await > 0);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_thousand_are_answered_though_the_one_that_asked_goes_away_half_way() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nCache-Control: max-age=60\r\n\r\nhalf";
        let origin = gated(&gate, head, "half").await;
        let proxy = roomy(&origin);
        let mut leader = Raw::connect(proxy.address).await;
        leader.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        leader.read_until("\r\n\r\nhalf").await;
        let all = stampede(&proxy, 1_000, 1).await;
        drop(leader);
        gate.add_permits(1);
        assert!(collapsed(all, "halfhalf").await > 0);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn who_comes_later_reads_from_the_beginning_while_it_is_stored() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nCache-Control: max-age=60\r\n\r\nhalf";
        let origin = gated(&gate, head, "half").await;
        let proxy = cached(&origin, "").start();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Raw::connect(proxy.address).await;
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            // The first half comes before the origin has sent the second.
            client.read_until("\r\n\r\nhalf").await;
            clients.push(client);
        }
        gate.add_permits(1);
        for mut client in clients {
            assert_eq!(client.read_exact(4).await, b"half");
        }
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_object_to_the_others() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nCache-Control: max-age=60\r\n\r\nhalf";
        let origin = gated(&gate, head, "half").await;
        let proxy = cached(&origin, "").start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        client.read_until("\r\n\r\nhalf").await;
        drop(client);
        gate.add_permits(1);
        eventually("it is stored", async || {
            let answer = get(&proxy, "/", "").await;
            assert_eq!(answer.text(), "halfhalf");
            said(&answer).contains("hit")
        })
        .await;
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn nobody_waits_for_a_slow_leader_for_ever() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let origin = Origin::scripted({
            let gate = gate.clone();
            move |mut connection| {
                let gate = gate.clone();
                async move {
                    while connection.request().await.is_some() {
                        if connection.number == 0 {
                            gate.acquire().await.unwrap().forget();
                        }
                        connection.write(ok(FRESH, &connection.number.to_string())).await;
                    }
                }
            }
        })
        .await;
        let proxy = cached(&origin, "collapse_wait = \"100ms\"").start();
        let address = proxy.address;
        let leader = tokio::spawn(async move { fetch(address, "/", "").await });
        eventually("the leader asks", async || origin.requests().len() == 1).await;
        assert_eq!(get(&proxy, "/", "").await.text(), "1");
        gate.add_permits(1);
        assert_eq!(leader.await.unwrap().text(), "0");
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_fails_fails_for_those_who_wait_and_not_for_those_after() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let origin = Origin::scripted({
            let gate = gate.clone();
            move |mut connection| {
                let gate = gate.clone();
                async move {
                    if connection.request().await.is_some() {
                        gate.acquire().await.unwrap().forget();
                        if connection.number > 0 {
                            connection.write(ok(FRESH, "body")).await;
                        }
                    }
                }
            }
        })
        .await;
        let lines = "collapse_wait = \"1m\"";
        let proxy = cached(&origin, lines).start();
        let address = proxy.address;
        let all: Vec<_> =
            (0..10).map(|_| tokio::spawn(async move { fetch(address, "/", "").await })).collect();
        eventually("all of them are in", async || {
            let metrics = super::metrics(&proxy).await;
            metrics.contains("tollgate_connections_open{listener=\"public\"} 10\n")
        })
        .await;
        gate.add_permits(100);
        for one in all {
            let answer = one.await.unwrap();
            assert!(matches!(answer.status, 200 | 502), "{answer:?}");
        }
        eventually("it is there", async || get(&proxy, "/", "").await.status == 200).await;
    })
    .await;
}

#[tokio::test]
async fn responses_that_are_not_stored_are_not_waited_for_again() {
    within(async {
        let gate = Arc::new(Semaphore::new(1));
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: private\r\n\r\nok";
        let origin = gated(&gate, "", answer).await;
        let proxy = cached(&origin, "collapse_wait = \"1m\"").start();
        get(&proxy, "/", "").await;
        let address = proxy.address;
        let all: Vec<_> =
            (0..5).map(|_| tokio::spawn(async move { fetch(address, "/", "").await })).collect();
        eventually("each of them asks", async || origin.requests().len() == 6).await;
        gate.add_permits(5);
        for one in all {
            assert_eq!(one.await.unwrap().text(), "ok");
        }
    })
    .await;
}

#[tokio::test]
async fn a_private_response_goes_to_nobody_who_waited_for_it() {
    within(async {
        let origin = origin(|_, count| {
            std::thread::sleep(Duration::from_millis(50));
            ok("Cache-Control: private\r\n", &format!("for {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        let address = proxy.address;
        let all: Vec<_> = (0..8)
            .map(|_| tokio::spawn(async move { fetch(address, "/", "").await.text() }))
            .collect();
        let mut bodies = Vec::new();
        for one in all {
            bodies.push(one.await.unwrap());
        }
        bodies.sort();
        bodies.dedup();
        assert_eq!(bodies.len(), 8, "{bodies:?}");
    })
    .await;
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_asked_for_to_the_end() {
    within(async {
        let ended = Arc::new(Semaphore::new(0));
        let origin = Origin::scripted({
            let ended = ended.clone();
            move |mut connection| {
                let ended = ended.clone();
                async move {
                    connection.request().await;
                    // Until the proxy lets go of it.
                    connection.request().await;
                    ended.add_permits(1);
                }
            }
        })
        .await;
        let proxy = cached(&origin, "").start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("it is asked for", async || origin.requests().len() == 1).await;
        drop(client);
        ended.acquire().await.unwrap().forget();
    })
    .await;
}
