//! The world that the tests put a proxy in.

pub mod certs;
pub mod client;
pub mod origin;
pub mod proxy;

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
