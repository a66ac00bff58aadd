//! What is stored, for whom, and for how long: a real proxy before a real origin.

mod collapsing;
mod disk;
mod failing;
#[cfg(feature = "redis")]
mod fleet;
#[cfg(target_os = "linux")]
mod killed;
mod operating;
mod sentences;
mod sharding;
mod storing;
mod validating;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::client::{Answer, ask};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};

/// One route with a cache, and more lines for it.
fn cached(origin: &Origin, lines: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n[route.cache]\n{lines}\n"
    ))
}

/// Answers as `answer` says to the request and its number, from 0.
async fn origin<F>(answer: F) -> Origin
where
    F: Fn(&str, usize) -> String + Send + Sync + 'static,
{
    let (answer, number) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    Origin::scripted(move |mut connection| {
        let (answer, number) = (answer.clone(), number.clone());
        async move {
            while let Some(request) = connection.request().await {
                let count = number.fetch_add(1, Ordering::SeqCst);
                connection.write(answer(&request, count)).await;
            }
        }
    })
    .await
}

/// 200 with these lines in its head.
fn ok(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{lines}\r\n{body}", body.len())
}

/// The same lines each time, and the number of the request as body.
async fn counting(lines: &'static str) -> Origin {
    origin(move |_, count| ok(lines, &format!("body {count}"))).await
}

async fn get(proxy: &Running, path: &str, fields: &str) -> Answer {
    send(proxy, "GET", path, fields).await
}

async fn send(proxy: &Running, method: &str, path: &str, fields: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    let mut client = crate::support::client::Raw::connect(proxy.address).await;
    client.send(request).await;
    client.answer_to(method).await
}

fn said(answer: &Answer) -> String {
    answer.fields("cache-status").join(", ")
}

async fn metrics(proxy: &Running) -> String {
    ask(proxy.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.text()
}
