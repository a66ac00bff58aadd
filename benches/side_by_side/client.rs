//! Clients that no tool at hand is: requests at a fixed rate, one handshake
//! after another, connections that do nothing.
//!
//! `--client KIND URL SECONDS NUMBER CERTIFICATE` prints `done rate p50 p99 p999`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsConnector;

use crate::Result;
use crate::load::{Load, output};
use crate::origin::content_length;
use crate::peers::World;

/// Connections at once, where the number means something else.
const CONNECTIONS: usize = 64;

/// Has a process of this program be the client.
pub(crate) fn client(
    kind: &str,
    url: &str,
    duration: Duration,
    number: usize,
    world: &World,
) -> Result<Load> {
    let program = std::env::current_exe()?.display().to_string();
    let seconds = format!("{}", duration.as_secs_f64());
    let number = number.to_string();
    let certificate = world.certificate().display().to_string();
    let client = "--client".to_owned();
    let command = [program, client, kind.into(), url.into(), seconds, number, certificate];
    let said = output(&command, duration)?;
    let numbers: Vec<f64> =
        said.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
    let [done, rate, p50, p99, p999] = numbers[..] else {
        return Err(format!("the client said {said:?}").into());
    };
    Ok(Load { done: done as u64, rate, latency: [p50, p99, p999] })
}

/// Is the client.
pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().ok_or("--client KIND URL SECONDS NUMBER CERTIFICATE");
    let (kind, url) = (next()?, next()?);
    let duration = Duration::from_secs_f64(next()?.parse()?);
    let number: usize = next()?.parse()?;
    let certificate = next()?;
    let (scheme, address) = url.split_once("://").ok_or("a URL")?;
    let address: SocketAddr = address.trim_end_matches('/').parse()?;
    let tls =
        (scheme == "https").then(|| connector(&certificate, kind == "resumed")).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let load = runtime.block_on(async {
        match kind.as_str() {
            "rate" => at_rate(address, number, duration).await,
            "full" | "resumed" => connections(address, tls, number, duration).await,
            "idle" => idle(address, tls, number, duration, false).await,
            "held" => idle(address, tls, number, duration, true).await,
            other => Err(format!("no client `{other}`").into()),
        }
    })?;
    let [p50, p99, p999] = load.latency;
    println!("{} {} {p50} {p99} {p999}", load.done, load.rate);
    Ok(())
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

async fn connect(address: SocketAddr, tls: Option<&TlsConnector>) -> Result<Box<dyn Io>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from("bench.test")?;
    Ok(Box::new(tls.connect(name, tcp).await?))
}

/// One request and its answer; `false` if the other side hung up first.
async fn exchange(stream: &mut dyn Io, request: &[u8], buffer: &mut [u8]) -> Result<bool> {
    stream.write_all(request).await?;
    let mut filled = 0;
    let mut whole = usize::MAX;
    while filled < whole {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(false);
        }
        filled += read;
        if whole == usize::MAX
            && let Some(end) = buffer[..filled].windows(4).position(|part| part == b"\r\n\r\n")
        {
            let head = std::str::from_utf8(&buffer[..end + 4])?;
            if !head.starts_with("HTTP/1.1 200") {
                return Err(head.to_owned().into());
            }
            whole = end + 4 + content_length(head)?;
        }
    }
    Ok(true)
}

fn request(address: SocketAddr, close: bool) -> Vec<u8> {
    let close = if close { "Connection: close\r\n" } else { "" };
    format!("GET /1k HTTP/1.1\r\nHost: {address}\r\n{close}\r\n").into_bytes()
}

/// Requests at a fixed rate over many connections. A request that had to wait
/// for the one before it counts from the moment it should have been sent, so
/// that a slow answer is not hidden by what it delayed.
async fn at_rate(address: SocketAddr, rate: usize, duration: Duration) -> Result<Load> {
    let start = Instant::now() + Duration::from_millis(200);
    let slots = (rate as f64 * duration.as_secs_f64()) as usize;
    let mut tasks = JoinSet::new();
    for first in 0..CONNECTIONS {
        tasks.spawn(async move {
            let mut stream = connect(address, None).await?;
            let (request, mut buffer) = (request(address, false), vec![0; 16 * 1024]);
            let mut latencies = Vec::new();
            for slot in (first..slots).step_by(CONNECTIONS) {
                let due = start + Duration::from_secs_f64(slot as f64 / rate as f64);
                let since = if Instant::now() > due {
                    due
                } else {
                    sleep_until(due).await;
                    // The timer's own grain is not the proxy's doing.
                    Instant::now()
                };
                if !exchange(&mut *stream, &request, &mut buffer).await? {
                    return Err("the proxy hung up".into());
                }
                latencies.push(since.elapsed().as_nanos() as u64);
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = tasks.join_next().await {
        all.extend(latencies??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    all.sort_unstable();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize] as f64 / 1_000.0;
    let latency = [at(0.5), at(0.99), at(0.999)];
    Ok(Load { done: all.len() as u64, rate: all.len() as f64 / elapsed, latency })
}

/// One connection after another, with one request each.
async fn connections(
    address: SocketAddr,
    tls: Option<TlsConnector>,
    at_once: usize,
    duration: Duration,
) -> Result<Load> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let tls = tls.clone();
        tasks.spawn(async move {
            let (request, mut buffer) = (request(address, true), vec![0; 16 * 1024]);
            let mut done = 0;
            while start.elapsed() < duration {
                let mut stream = connect(address, tls.as_ref()).await?;
                if !exchange(&mut *stream, &request, &mut buffer).await? {
                    return Err("the proxy hung up".into());
                }
                done += 1;
            }
            Ok::<u64, Box<dyn std::error::Error + Send + Sync>>(done)
        });
    }
    let mut done = 0;
    while let Some(of_one) = tasks.join_next().await {
        done += of_one??;
    }
    let rate = done as f64 / start.elapsed().as_secs_f64();
    Ok(Load { done, rate, latency: [0.0; 3] })
}

/// Connections that make one request each and are then kept; and that make
/// another at the end, if they are asked `again`.
async fn idle(
    address: SocketAddr,
    tls: Option<TlsConnector>,
    number: usize,
    hold: Duration,
    again: bool,
) -> Result<Load> {
    let (request, mut buffer) = (request(address, false), vec![0; 16 * 1024]);
    let mut held = Vec::new();
    for _ in 0..number {
        let mut stream = connect(address, tls.as_ref()).await?;
        exchange(&mut *stream, &request, &mut buffer).await?;
        held.push(stream);
    }
    sleep(hold).await;
    let mut done = 0;
    for stream in &mut held {
        let answered = !again || exchange(&mut **stream, &request, &mut buffer).await?;
        done += u64::from(answered);
    }
    Ok(Load { done, ..Load::default() })
}

/// Trusts this one certificate.
fn connector(certificate: &str, resumed: bool) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = if resumed {
        Resumption::in_memory_sessions(1024).tls12_resumption(Tls12Resumption::Disabled)
    } else {
        Resumption::disabled()
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
