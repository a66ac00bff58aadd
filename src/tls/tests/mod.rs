mod client_auth;
mod reload;
mod resumption;
mod watch;

use std::path::Path;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// So many days from now, as rcgen has it; it does not say what that type is called.
macro_rules! in_days {
    ($days:expr) => {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(
                now().saturating_add(DAY.saturating_mul($days)).try_into().unwrap(),
            )
    };
}
use in_days;

/// Writes a self-signed certificate for `names` and its key.
fn certificate(dir: &Path, file: &str, names: &[&str]) -> CertificateSettings {
    // A century is long enough for any test.
    valid(dir, file, names, -1, 36_500)
}

/// The same, valid from so many days from now until so many days from now.
fn valid(dir: &Path, file: &str, names: &[&str], from: i64, until: i64) -> CertificateSettings {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    (params.not_before, params.not_after) = (in_days!(from), in_days!(until));
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&signing_key).unwrap();
    let certificate = dir.join(format!("{file}.crt"));
    let key = dir.join(format!("{file}.key"));
    std::fs::write(&certificate, made.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    CertificateSettings { certificate, key, names: Vec::new() }
}

const DAY: i64 = 24 * 60 * 60;

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// What came of a client's meeting with a server.
struct Met {
    resumed: bool,
    /// The certificate that the client goes by.
    leaf: Vec<u8>,
    facts: TlsFacts,
    client: tokio_rustls::client::TlsStream<tokio::io::DuplexStream>,
    server: Box<TlsStream<tokio::io::DuplexStream>>,
}

/// Shakes hands and says a byte, before which the tickets come; `None` if the two do
/// not come together.
async fn meet(server: &TlsAcceptor, client: &Arc<ClientConfig>, name: &str) -> Option<Met> {
    let (here, there) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connect = async {
        let connector = tokio_rustls::TlsConnector::from(client.clone());
        let mut stream = connector.connect(name, here).await.ok()?;
        (stream.read_u8().await.ok()? == 7).then_some(stream)
    };
    let accept = async {
        let (mut stream, facts, _) = server.accept(there).await.ok()?;
        stream.write_u8(7).await.ok()?;
        stream.flush().await.ok()?;
        Some((stream, facts))
    };
    let (Some(client), Some((server, facts))) = tokio::join!(connect, accept) else {
        return None;
    };
    let kind = server.get_ref().1.handshake_kind();
    assert_eq!(kind, client.get_ref().1.handshake_kind());
    let leaf = client.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let resumed = kind == Some(rustls::HandshakeKind::Resumed);
    Some(Met { resumed, leaf, facts, client, server })
}

/// The certificate of these settings, as it is in the file.
fn leaf(settings: &CertificateSettings) -> Vec<u8> {
    crate::pem::read_certificates(&settings.certificate).unwrap()[0].to_vec()
}

fn trusting(settings: &[CertificateSettings]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for one in settings {
        for certificate in crate::pem::read_certificates(&one.certificate).unwrap() {
            roots.add(certificate).unwrap();
        }
    }
    roots
}

fn client(roots: RootCertStore, alpn: &[&str], tls12: bool) -> ClientConfig {
    let versions: &[_] =
        if tls12 { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

fn acceptor(settings: &TlsSettings) -> Result<TlsAcceptor, TlsError> {
    TlsAcceptor::new(settings, true, true, &Tickets::new().unwrap())
}

/// Shakes hands; returns what both sides learnt.
async fn handshake(
    acceptor: &TlsAcceptor,
    config: ClientConfig,
    name: &str,
) -> (Result<(TlsFacts, Alpn), HandshakeError>, io::Result<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connect = async {
        let tcp = TcpStream::connect(address).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map(drop)
    };
    let accept = async {
        let (tcp, _) = listener.accept().await.unwrap();
        acceptor.accept(tcp).await.map(|(_, facts, alpn)| (facts, alpn))
    };
    tokio::join!(accept, connect)
}

#[tokio::test]
async fn the_certificate_follows_the_server_name() {
    let dir = TempDir::new().unwrap();
    let certificates = vec![
        certificate(dir.path(), "default", &["default.test"]),
        certificate(dir.path(), "exact", &["www.example.test"]),
        certificate(dir.path(), "wild", &["*.example.test"]),
    ];
    let server = acceptor(&TlsSettings::new(certificates.clone())).unwrap();
    let cases = [
        ("default.test", 0),
        ("www.example.test", 1),
        ("WWW.Example.test", 1),
        ("api.example.test", 2),
    ];
    for (name, expected) in cases {
        for (index, certificate) in certificates.iter().enumerate() {
            let config = client(trusting(std::slice::from_ref(certificate)), &[], false);
            let (_, connected) = handshake(&server, config, name).await;
            assert_eq!(connected.is_ok(), index == expected, "{name} with certificate {index}");
        }
    }
}

#[tokio::test]
async fn versions_and_protocols_are_agreed_on() {
    let dir = TempDir::new().unwrap();
    let certificates = vec![certificate(dir.path(), "a", &["a.test"])];
    let server = acceptor(&TlsSettings::new(certificates.clone())).unwrap();
    let roots = trusting(&certificates);

    let config = client(roots.clone(), &["h2", "http/1.1"], false);
    let (facts, alpn) = handshake(&server, config, "a.test").await.0.unwrap();
    assert_eq!((facts.version, alpn), ("TLSv1_3", Alpn::Http2));
    assert_eq!(facts.server_name.as_deref(), Some("a.test"));

    let config = client(roots.clone(), &["http/1.1"], true);
    let (facts, alpn) = handshake(&server, config, "a.test").await.0.unwrap();
    assert_eq!((facts.version, alpn), ("TLSv1_2", Alpn::Http1));

    let config = client(roots.clone(), &["http/1.0"], false);
    assert_eq!(handshake(&server, config, "a.test").await.0.unwrap().1, Alpn::Http1);

    let config = client(roots, &["smtp"], false);
    let error = handshake(&server, config, "a.test").await.0.unwrap_err();
    assert_eq!(error.reason(), "alpn");
}

#[tokio::test]
async fn every_connection_brings_the_ticket_that_resumes_the_next() {
    let dir = TempDir::new().unwrap();
    let certificates = vec![certificate(dir.path(), "a", &["a.test"])];
    let server = acceptor(&TlsSettings::new(certificates.clone())).unwrap();
    let config = Arc::new(client(trusting(&certificates), &[], false));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut resumed = Vec::new();
    for _ in 0..3 {
        let connect = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(config.clone());
            let name = ServerName::try_from("a.test").unwrap();
            // The ticket comes before what the server has to say.
            connector.connect(name, tcp).await.unwrap().read_u8().await.unwrap()
        };
        let accept = async {
            let (mut stream, ..) = server.accept(listener.accept().await.unwrap().0).await.unwrap();
            stream.write_u8(1).await.unwrap();
            stream.flush().await.unwrap();
            stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
        };
        resumed.push(tokio::join!(connect, accept).1);
    }
    assert_eq!(resumed, [false, true, true]);
}

#[tokio::test]
async fn tls_1_2_is_refused_where_1_3_is_the_least() {
    let dir = TempDir::new().unwrap();
    let certificates = vec![certificate(dir.path(), "a", &["a.test"])];
    let mut settings = TlsSettings::new(certificates.clone());
    settings.min_version = TlsVersion::Tls13;
    let server = acceptor(&settings).unwrap();
    let config = client(trusting(&certificates), &[], true);
    let (accepted, connected) = handshake(&server, config, "a.test").await;
    assert!(accepted.is_err() && connected.is_err());
}

#[tokio::test]
async fn a_client_that_never_speaks_is_given_up_on() {
    let dir = TempDir::new().unwrap();
    let mut settings = TlsSettings::new(vec![certificate(dir.path(), "a", &["a.test"])]);
    settings.handshake_timeout = Duration::from_millis(50);
    let server = acceptor(&settings).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let error = server.accept(tcp).await.unwrap_err();
    assert_eq!(error.reason(), "timeout");
}

#[test]
fn every_file_that_cannot_be_used_is_named() {
    let dir = TempDir::new().unwrap();
    let good = certificate(dir.path(), "good", &["a.test"]);
    let other = certificate(dir.path(), "other", &["b.test"]);
    let mismatched = CertificateSettings { key: other.key, ..good.clone() };
    let missing = CertificateSettings { key: dir.path().join("missing.key"), ..good.clone() };
    let settings = TlsSettings::new(vec![good, mismatched, missing]);
    let error = acceptor(&settings).unwrap_err();
    assert_eq!(error.problems().len(), 2, "{error}");
    assert!(error.problems()[0].contains("does not belong"), "{error}");
    assert!(error.problems()[1].contains("missing.key"), "{error}");
}
