//! The world that the tests put a proxy in.

pub mod attack;
pub mod browser;
pub mod certs;
pub mod client;
pub mod dns;
pub mod frames;
pub mod grpc;
pub mod h2;
pub mod https;
pub mod identity_provider;
pub mod mutual;
pub mod origin;
pub mod proxy;
pub mod recorder;
pub mod redis;
pub mod redis_many;
pub mod strict;
pub mod websocket;

use std::time::Duration;

/// No test takes longer than this, whatever hangs.
pub async fn within<T>(test: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), test).await {
        Ok(value) => value,
        Err(_) => panic!("the test hung"),
    }
}

/// Asks again until `check` is true; panics with `what` if it never is.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came about that {what}");
}

/// An address on which nobody listens, and on which nobody else can meanwhile.
pub struct Refusing {
    pub address: std::net::SocketAddr,
    bound: socket2::Socket,
}

impl Refusing {
    pub fn new() -> Self {
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let bound = bound.unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        bound.bind(&any.into()).unwrap();
        Self { address: bound.local_addr().unwrap().as_socket().unwrap(), bound }
    }

    /// Somebody listens there from now on.
    pub fn accepting(self) -> tokio::net::TcpListener {
        self.bound.listen(128).unwrap();
        self.bound.set_nonblocking(true).unwrap();
        tokio::net::TcpListener::from_std(self.bound.into()).unwrap()
    }
}

impl std::fmt::Display for Refusing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)
    }
}
