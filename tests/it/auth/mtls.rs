//! Client certificates: who of those that the listener vouches for may come in.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tempfile::TempDir;
use tollgate::config::parse;

use crate::support::certs::{Authority, connect, showing};
use crate::support::client::{Answer, Raw, fields};
use crate::support::mutual::{Mutual, Pair};
use crate::support::{eventually, within};

/// Everybody's route is `/open`; `/ops` is for some of those that show a certificate.
const ROUTES: &str = "
[[auth]]
name = \"ops\"
[auth.mtls]
subjects = [\"CN=*,O=Ops\"]
sans = [\"uri:spiffe://example.test/robot-*\"]
identity_header = \"X-Client\"
forward_certificate = true
forward_chain = true
[[route]]
name = \"ops\"
path = \"/ops\"
upstream = \"origin\"
auth = \"ops\"
[[route]]
name = \"host\"
hosts = [\"b.test\"]
upstream = \"origin\"
auth = \"ops\"
";

/// Forged in every way that an origin may read as the fields that it believes.
const FORGED: &str = "Client-Cert: :AAAA:\r\nClient_Cert: :AAAA:\r\nclient-cert-chain: :AAAA:\r\n\
                      X-Client: root\r\nX_Client: root\r\nConnection: client-cert, x-client\r\n";

async fn ask(address: SocketAddr, config: ClientConfig, host: &str, path: &str) -> Answer {
    let mut client = Raw::over(connect(address, config, "a.test").await.unwrap());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{FORGED}\r\n")).await;
    client.answer().await
}

fn der_in_field(pair: &Pair) -> String {
    let body = pair.0.lines().filter(|line| !line.starts_with('-'));
    format!(":{}:", body.collect::<String>())
}

#[tokio::test]
async fn some_of_those_that_the_listener_vouches_for_are_let_in() {
    within(async {
        let mutual = Mutual::start("mode = \"request\"", ROUTES).await;
        let signed =
            |name, organization| mutual.clients.client_signed(name, organization, 7, |_| {});
        let (ops, robot, web) =
            (signed("alice", "Ops"), signed("robot-1", "Example"), signed("web", "Example"));
        let address = mutual.proxy.address;
        let status =
            async |shown, path| ask(address, mutual.client(shown), "a.test", path).await.status;
        for (shown, expected) in
            [(Some(&ops), 200), (Some(&robot), 200), (Some(&web), 403), (None, 401)]
        {
            assert_eq!(status(shown, "/ops").await, expected);
            assert_eq!(status(shown, "/open").await, 200);
        }
        // The origin is told who asks, and nobody tells it anything else.
        let seen = mutual.origin.requests();
        assert_eq!(seen.len(), 6);
        for request in &seen {
            let of_ops = request.starts_with("GET /ops ");
            let shown = if fields(request, "x-client") == ["alice"] { &ops } else { &robot };
            let expected = if of_ops { vec![der_in_field(shown)] } else { Vec::new() };
            assert_eq!(fields(request, "client-cert"), expected, "{request}");
            assert_eq!(fields(request, "x-client").len(), usize::from(of_ops), "{request}");
            for twin in ["client_cert", "client-cert-chain", "x_client"] {
                assert!(fields(request, twin).is_empty(), "{request}");
            }
        }
        let lines = mutual.proxy.log_lines(8).await;
        let line = |at: usize| serde_json::from_str::<serde_json::Value>(&lines[at]).unwrap();
        assert_eq!(line(0)["identity"], "alice");
        assert_eq!(line(0)["client_subject"], "CN=alice,O=Ops");
        assert_eq!(
            (&line(4)["rejected"], &line(4)["status"]),
            (&"mtls_unknown".into(), &403.into())
        );
        assert_eq!(line(4)["client_subject"], "CN=web,O=Example");
        assert_eq!(line(6)["rejected"], "auth_missing");
    })
    .await;
}

#[tokio::test]
async fn a_chain_is_told_as_it_came_over_http_2_too() {
    within(async {
        let mutual = Mutual::start("", ROUTES).await;
        let pair = mutual.clients.client_signed("alice", "Ops", 7, |_| {});
        // A client may send the authority's own certificate along.
        let with_chain = (format!("{}{}", pair.0, mutual.clients.pem()), pair.1.clone());
        let config = showing(mutual.servers.client(&["h2"]), &with_chain);
        let stream = connect(mutual.proxy.address, config, "a.test").await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        for _ in 0..3 {
            let request = Request::get("https://a.test/ops")
                .header("client-cert", ":AAAA:")
                .header("client_cert_chain", ":AAAA:");
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
        }
        let chain = der_in_field(&(mutual.clients.pem(), String::new()));
        for request in mutual.origin.requests() {
            assert_eq!(fields(&request, "client-cert"), [der_in_field(&pair)]);
            assert_eq!(fields(&request, "client-cert-chain"), [chain.as_str()]);
            assert!(fields(&request, "client_cert_chain").is_empty(), "{request}");
        }
        assert_eq!(mutual.origin.requests().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn no_host_and_no_listener_leads_around_the_scheme() {
    within(async {
        let open = "[[listener]]\nname = \"open\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
                    certificates = [{ certificate = \"a.crt\", key = \"a.key\" }]\n\
                    [[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\n";
        let more = format!("{ROUTES}{open}");
        let mutual = Mutual::start("mode = \"request\"", &more).await;
        let ops = mutual.clients.client_signed("alice", "Ops", 7, |_| {});
        let strict = mutual.proxy.address;
        let [open, plain] = ["open", "plain"].map(|name| mutual.proxy.listeners.addresses(name)[0]);
        // A connection that was made for a.test asks for b.test, whose certificate it is, too.
        let status =
            async |address, shown, host| ask(address, mutual.client(shown), host, "/").await.status;
        assert_eq!(status(strict, Some(&ops), "b.test").await, 200);
        assert_eq!(status(strict, None, "a.test").await, 200);
        assert_eq!(status(strict, None, "b.test").await, 401);
        // Where nobody is asked for a certificate, nobody has one, session or not.
        let known = mutual.client(Some(&ops));
        for (address, expected) in [(strict, 200), (open, 401), (strict, 200), (open, 401)] {
            assert_eq!(ask(address, known.clone(), "b.test", "/").await.status, expected);
        }
        let mut client = Raw::connect(plain).await;
        client.send(format!("GET /ops HTTP/1.1\r\nHost: a.test\r\n{FORGED}\r\n")).await;
        assert_eq!(client.answer().await.status, 401);
    })
    .await;
}

#[tokio::test]
async fn a_host_with_a_certificate_of_its_own_is_for_connections_that_were_shown_it() {
    within(async {
        let (servers, clients) = (Authority::new(), Authority::of_clients("Clients"));
        let dir = TempDir::new().unwrap();
        servers.sign(dir.path(), "a", &["a.test"]);
        servers.sign(dir.path(), "b", &["b.test"]);
        std::fs::write(dir.path().join("clients.pem"), clients.pem()).unwrap();
        let pair = |name| format!("{{ certificate = \"{name}.crt\", key = \"{name}.key\" }}");
        let listener = format!(
            "[listener.tls]\ncertificates = [{}, {}]\n\
             [listener.tls.client_auth]\nca = \"clients.pem\"\nmode = \"request\"\n",
            pair("a"),
            pair("b")
        );
        let origin = crate::support::origin::Origin::named("one").await;
        let setup = crate::support::proxy::Setup::forwarding_to(&origin).listener(&listener);
        let proxy = setup.and(ROUTES).start_in(dir);
        let shown = showing(
            servers.client(&["http/1.1"]),
            &clients.client_signed("alice", "Ops", 7, |_| {}),
        );
        assert_eq!(ask(proxy.address, shown.clone(), "a.test", "/ops").await.status, 200);
        assert_eq!(ask(proxy.address, shown, "b.test", "/").await.status, 421);
        let nobody = servers.client(&["http/1.1"]);
        assert_eq!(ask(proxy.address, nobody, "b.test", "/").await.status, 421);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_authority_speaks_for_itself_whatever_it_has_others_be_called() {
    within(async {
        let partners = Authority::of_clients("Partners");
        let routes = ROUTES.replace("[auth.mtls]", "[auth.mtls]\nissuers = [\"CN=Partners,**\"]");
        let mutual = Mutual::start("", &routes).await;
        mutual.replace("clients.pem", &format!("{}{}", mutual.clients.pem(), partners.pem()));
        let signed = |issuer: &Authority| issuer.client_signed("alice", "Ops", 7, |_| {});
        let (good, other) = (signed(&partners), signed(&mutual.clients));
        eventually("partners are vouched for", async || mutual.is_let_in(Some(&good)).await).await;
        let below = |name, other| {
            let between = Authority::of_clients_below(name, other);
            let (leaf, key) = signed(&between);
            (format!("{leaf}{}", between.pem()), key)
        };
        let posing = below("Partners", &mutual.clients);
        let department = below("Department", &partners);
        for (who, shown, expected) in [
            ("of the partners", good, 200),
            ("of another", other, 403),
            ("of another's that poses", posing, 403),
            ("of a department of the partners", department, 200),
        ] {
            let client = mutual.client(Some(&shown));
            // Once by the certificate, and once by the session.
            for _ in 0..2 {
                let got = ask(mutual.proxy.address, client.clone(), "a.test", "/ops").await;
                assert_eq!(got.status, expected, "{who}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_reload_says_holds_for_connections_that_are_open() {
    within(async {
        let mutual = Mutual::start("", ROUTES).await;
        let ops = mutual.clients.client_signed("alice", "Ops", 7, |_| {});
        let stream = connect(mutual.proxy.address, mutual.client(Some(&ops)), "a.test").await;
        let mut client = Raw::over(stream.unwrap());
        let mut status = async || {
            client.send("GET /ops HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            client.answer().await.status
        };
        assert_eq!(status().await, 200);
        let config = mutual.proxy.dir.path().join("config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        mutual.replace("config.toml", &text.replace("O=Ops", "O=Others"));
        eventually("the new pattern holds", async || status().await == 403).await;
        mutual.replace("config.toml", &text);
        eventually("the old one holds again", async || status().await == 200).await;
        let told = mutual.metrics().await;
        assert!(told.contains("mtls_unknown"), "{told}");
    })
    .await;
}

#[test]
fn what_cannot_work_is_said_where_it_stands() {
    let report = |listener: &str, auth: &str, route: &str| {
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n{listener}\n\
             [[listener]]\nname = \"b\"\naddress = \"127.0.0.1:0\"\n\
             [[auth]]\nname = \"ops\"\n[auth.mtls]\n{auth}\n\
             [[route]]\nname = \"all\"\nrespond = {{}}\nauth = \"ops\"\n{route}\n"
        );
        // What is there is enough: nothing is read yet.
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("x.toml");
        parse(&path, &text).map(|_| ()).map_err(|error| error.to_string())
    };
    let tls =
        "[listener.tls]\ncertificates = [{ certificate = \"Cargo.toml\", key = \"Cargo.toml\" }]\n";
    let mutual = format!("{tls}[listener.tls.client_auth]\nca = \"Cargo.toml\"\n");
    assert_eq!(report(&mutual, "", ""), Ok(()));
    assert_eq!(report(&mutual, "", "listeners = [\"a\"]"), Ok(()));
    let says = "`ops` goes by client certificates, and no listener of this route asks for any";
    for (listener, route) in [("", ""), (tls, ""), (&*mutual, "listeners = [\"b\"]")] {
        let report = report(listener, "", route).unwrap_err();
        assert!(report.contains(says) && report.contains("[listener.tls.client_auth]"), "{report}");
    }
    for (auth, says) in [
        ("subjects = [\"web\"]", "`web` is not the name of a subject"),
        ("subjects = []", "`subjects` names nobody"),
        ("sans = [\"web.test\"]", "expected its kind first"),
        ("fingerprints = [\"ab:cd\"]", "openssl x509 -noout -fingerprint"),
        ("name = \"dns\"", "expected one of \"cn\", \"san\", \"subject\", \"fingerprint\""),
        ("issuer = \"CN=a\"", "here it is `issuers`"),
    ] {
        let report = report(&mutual, auth, "").unwrap_err();
        assert!(report.contains(says), "{auth}: {report}");
    }
    let colons = format!("fingerprints = [\"sha256:{}\"]", ["AB"; 32].join(":"));
    assert_eq!(report(&mutual, &colons, ""), Ok(()));
    for (line, says) in [
        ("mode = \"optional\"", "here it is \"request\""),
        ("crl = []", "`crl` names no file"),
        ("unknown_revocation = \"accept\"", "without `crl` nothing is known"),
        ("crls = [\"a\"]", "here it is `crl`"),
    ] {
        let report = report(&format!("{mutual}{line}\n"), "", "").unwrap_err();
        assert!(report.contains(says), "{line}: {report}");
    }
}
