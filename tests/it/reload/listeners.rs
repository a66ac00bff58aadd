//! Listeners that a configuration adds, changes and takes away.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::{BY_HAND, ask, reload, to};
use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::websocket::{H2, echo, extended, h2_to, upgrade};
use crate::support::{eventually, within};

fn listener(name: &str, address: impl std::fmt::Display, more: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n{more}\n")
}

/// An address that nobody else is likely to take meanwhile.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn refused(address: SocketAddr) {
    eventually("nobody listens there", async || TcpStream::connect(address).await.is_err()).await;
}

async fn over_h2(h2: &mut H2, path: &str) -> Result<u16, hyper::Error> {
    let request = Request::get(format!("http://a.test{path}")).body(Empty::new()).unwrap();
    Ok(h2.send_request(request).await?.status().as_u16())
}

#[tokio::test]
async fn one_that_is_added_answers_and_one_that_is_removed_ends_gracefully() {
    within(async {
        let (origin, _events) = echo().await;
        let setup = || {
            Setup::new(format!(
                "[[upstream]]\nname = \"ws\"\norigins = [\"{origin}\"]\n\
                 [[route]]\nname = \"ws\"\npath = \"/ws\"\nupstream = \"ws\"\n\
                 [[route]]\nname = \"fixed\"\npath = \"/fixed\"\nrespond = {{ body = \"yes\" }}\n"
            ))
            .server(BY_HAND)
        };
        let proxy = setup().start();
        let mut kept = Raw::connect(proxy.address).await;
        assert_eq!(ask(&mut kept, "/fixed").await.status, 200);
        let address = free_address();
        refused(address).await;
        assert_eq!(reload(&proxy, &setup().and(&listener("second", address, ""))).await, Ok(2));
        // It listens by the time that the reload is over.
        let mut idle = Raw::connect(address).await;
        assert_eq!(ask(&mut idle, "/fixed").await.text(), "yes");
        let mut quiet = Raw::connect(address).await;
        let tcp = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = upgrade(Box::new(tcp), &[]).await;
        let mut h2 = h2_to(address).await;
        let (mut h2_socket, _) = extended(&mut h2, &[]).await;
        assert_eq!(reload(&proxy, &setup()).await, Ok(3));
        refused(address).await;
        assert!(quiet.read_to_end().await.is_empty());
        assert!(idle.read_to_end().await.is_empty());
        eventually("the client was told to go away", async || {
            over_h2(&mut h2, "/fixed").await.is_err()
        })
        .await;
        for socket in [&mut socket, &mut h2_socket] {
            socket.send(Message::text("still")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still"));
        }
        assert_eq!(ask(&mut kept, "/fixed").await.status, 200);
        // The same address again, beside what is still there from before.
        assert_eq!(reload(&proxy, &setup().and(&listener("third", address, ""))).await, Ok(4));
        assert_eq!(get(address, "/fixed", "").await.text(), "yes");
        for socket in [&mut socket, &mut h2_socket] {
            socket.close(None).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        }
        drop((socket, h2_socket, h2));
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn an_address_goes_to_another_listener_with_its_connections() {
    within(async {
        let origin = Origin::named("one").await;
        let (one, two) = (free_address(), free_address());
        // What is for one listener only goes with its address, not with a connection's name.
        let with = |listeners: &[String], inner: &str| {
            let route = format!(
                "[[route]]\nname = \"inner\"\nlisteners = [\"{inner}\"]\npath = \"/inner\"\n\
                 respond = {{ body = \"inner\" }}\n"
            );
            to(&origin).and(&(listeners.concat() + &route))
        };
        let before = [listener("first", one, ""), listener("second", two, "")];
        let proxy = with(&before, "second").start();
        let mut clients = [Raw::connect(one).await, Raw::connect(two).await];
        let mut over = [h2_to(one).await, h2_to(two).await];
        for (client, body) in clients.iter_mut().zip(["one", "inner"]) {
            assert_eq!(ask(client, "/").await.status, 200);
            assert_eq!(ask(client, "/inner").await.text(), body);
        }
        // Swapped, then both in one, then each under a name that is new.
        let both = format!("[[listener]]\nname = \"both\"\naddress = [\"{one}\", \"{two}\"]\n");
        let renamed = vec![listener("third", one, ""), listener("fourth", two, "backlog = 77")];
        for (number, (listeners, inner, bodies)) in [
            (
                vec![listener("first", two, ""), listener("second", one, "")],
                "second",
                ["inner", "one"],
            ),
            (vec![both], "both", ["inner", "inner"]),
            (renamed.clone(), "fourth", ["one", "inner"]),
            (renamed, "public", ["one", "one"]),
        ]
        .iter()
        .enumerate()
        {
            assert_eq!(reload(&proxy, &with(listeners, inner)).await, Ok(number as u64 + 2));
            for (client, address) in clients.iter_mut().zip([one, two]) {
                let answer = ask(client, "/").await;
                assert_eq!((answer.status, answer.field("connection")), (200, None), "{number}");
                assert_eq!(get(address, "/", "").await.status, 200, "{number}");
            }
            for (client, body) in clients.iter_mut().zip(bodies) {
                assert_eq!(ask(client, "/inner").await.text(), *body, "{number}");
            }
            for (h2, body) in over.iter_mut().zip(bodies) {
                let request = Request::get("http://a.test/inner").body(Empty::new()).unwrap();
                let answer = h2.send_request(request).await.unwrap();
                let content = answer.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(content, body.as_bytes(), "{number}");
            }
        }
        drop(over);
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn protocols_and_limits_are_for_new_connections_only() {
    within(async {
        let origin = Origin::named("one").await;
        let proxy = to(&origin).start();
        let mut h1 = Raw::connect(proxy.address).await;
        let mut h2 = h2_to(proxy.address).await;
        assert_eq!(ask(&mut h1, "/").await.status, 200);
        assert_eq!(over_h2(&mut h2, "/").await.unwrap(), 200);
        let long = "/a-target-of-more-than-sixteen-bytes";
        let strict = to(&origin).listener("protocols = [\"http/1.1\"]\nmax_target = \"16B\"");
        assert_eq!(reload(&proxy, &strict).await, Ok(2));
        assert_eq!(get(proxy.address, long, "").await.status, 414);
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        let (mut other, connection) = h2::client::handshake(tcp).await.unwrap();
        let request = Request::get("http://a.test/").body(()).unwrap();
        let asked = other.send_request(request, true).unwrap().0;
        let (answered, ended) = tokio::join!(asked, connection);
        assert!(answered.is_err() && ended.is_err(), "HTTP/2 is not spoken any more");
        let answer = ask(&mut h1, long).await;
        assert_eq!((answer.status, answer.field("connection")), (200, None));
        assert_eq!(over_h2(&mut h2, long).await.unwrap(), 200);
        assert_eq!(reload(&proxy, &to(&origin)).await, Ok(3));
        assert_eq!(over_h2(&mut h2_to(proxy.address).await, long).await.unwrap(), 200);
        drop((h2, other));
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn a_plain_listener_becomes_one_of_tls_and_back() {
    within(async {
        use crate::support::certs::{Authority, connect};
        let (origin, authority) = (Origin::named("one").await, Authority::new());
        let dir = tempfile::TempDir::new().unwrap();
        authority.sign(dir.path(), "a", &["a.test"]);
        let proxy = to(&origin).start_in(dir);
        let mut plain = Raw::connect(proxy.address).await;
        assert_eq!(ask(&mut plain, "/").await.status, 200);
        let pair = "[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]";
        assert_eq!(reload(&proxy, &to(&origin).listener(pair)).await, Ok(2));
        let client = authority.client(&["http/1.1"]);
        let stream = connect(proxy.address, client.clone(), "a.test").await.unwrap();
        let mut secure = Raw::over(stream);
        assert_eq!(ask(&mut secure, "/").await.status, 200);
        assert_eq!(ask(&mut plain, "/").await.status, 200);
        assert_eq!(reload(&proxy, &to(&origin)).await, Ok(3));
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        connect(proxy.address, client, "a.test").await.unwrap_err();
        assert_eq!(ask(&mut secure, "/").await.status, 200);
        drop((secure, plain));
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}
