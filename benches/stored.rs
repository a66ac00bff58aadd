//! What a stored response takes of memory, and what the cache's budget counts for it.
//!
//! ```console
//! $ cargo bench --bench stored                          # 1,000,000 of 100 B, 100,000 of 1 KiB
//! $ cargo bench --bench stored -- 1000000x100 8000x1024 # others
//! ```
//!
//! Every row is a process of its own, for memory is not given back. Responses come
//! through the layer, with fields that are parts of a buffer of 8 KiB, as those are that
//! come from a socket.

use std::error::Error;
use std::process::Command;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use tollgate::body::Body;
use tollgate::layers::{Cache, CacheLayer, CacheSettings};
use tower::{Layer, Service, ServiceExt};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let mut arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|argument| argument == "--one") {
        return one(arguments.get(1).ok_or("--one OBJECTSxBYTES")?);
    }
    if arguments.is_empty() {
        arguments = vec!["1000000x100".to_owned(), "100000x1024".to_owned()];
    }
    println!(
        "| objects | body | resident, each beside its body | counted, each | counted / resident |"
    );
    println!("|---|---|---|---|---|");
    for row in arguments {
        Command::new(std::env::current_exe()?).args(["--one", &row]).status()?;
    }
    Ok(())
}

fn one(row: &str) -> Result<()> {
    let (objects, bytes) = row.split_once('x').ok_or("OBJECTSxBYTES")?;
    let (objects, bytes): (usize, usize) = (objects.parse()?, bytes.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cache = Cache::new(64 << 30);
        let origin = tower::service_fn(move |_: Request<Body>| async move {
            Ok::<_, tollgate::error::Error>(response(bytes))
        });
        let mut service = CacheLayer::new(&cache, "all", &CacheSettings::default()).layer(origin);
        fill(&mut service, 0..1_000).await?;
        let _settled = cache.figures();
        let before = resident()?;
        let (counted_before, stored_before) =
            (cache.figures().stored_bytes, cache.figures().objects);
        fill(&mut service, 1_000..1_000 + objects).await?;
        let figures = cache.figures();
        let stored = (figures.objects - stored_before) as f64;
        let taken = (resident()? - before) as f64 / stored;
        let counted = (figures.stored_bytes - counted_before) as f64 / stored;
        println!(
            "| {stored} | {bytes} | {:.0} | {counted:.0} | {:.2} |",
            taken - bytes as f64,
            counted / taken
        );
        Ok(())
    })
}

async fn fill<S>(service: &mut S, range: std::ops::Range<usize>) -> Result<()>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = tollgate::error::Error>,
{
    for number in range {
        let request = Request::get(format!("/products/{number:08}.html"));
        let request = request.header(header::HOST, "shop.example.com").body(Body::empty())?;
        let response = service.ready().await?.call(request).await?;
        response.into_body().collect().await?;
    }
    Ok(())
}

/// A response of six fields, read into a buffer.
fn response(bytes: usize) -> Response<Body> {
    const FIELDS: [(header::HeaderName, &str); 6] = [
        (header::DATE, "Thu, 26 Nov 2026 02:00:00 GMT"),
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
        (header::ETAG, "\"5f2b-61f3a4c0\""),
        (header::LAST_MODIFIED, "Wed, 25 Nov 2026 10:00:00 GMT"),
        (header::VARY, "Accept-Encoding"),
    ];
    let mut buffer = Vec::with_capacity((8 << 10).max(bytes + 1024));
    FIELDS.iter().for_each(|(_, value)| buffer.extend_from_slice(value.as_bytes()));
    let head = buffer.len();
    buffer.resize(head + bytes, b'x');
    let mut buffer = Bytes::from(buffer);
    let mut response = Response::new(Body::empty());
    for (name, value) in FIELDS {
        let value = HeaderValue::from_maybe_shared(buffer.split_to(value.len()));
        response.headers_mut().extend(value.map(|value| (name, value)));
    }
    *response.body_mut() = buffer.into();
    response
}

/// Memory of this process that is resident, in bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = status.lines().find(|line| line.starts_with("Rss:")).ok_or("no Rss")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no Rss")?.parse()?;
    Ok(kib * 1024)
}
