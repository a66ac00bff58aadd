//! Requests are signed as their origin sees them (`[upstream.sign]`, RFC 9421).
//!
//! The signature bases are written out here: what the proxy makes of them is what is
//! tested.

use aws_lc_rs::{hmac, signature};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData;
use tempfile::TempDir;

use crate::support::client::{ask, fields, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{Refusing, within};

const SECRET: &str = "a secret of the edge and its origins";

/// An upstream of these origins, whose requests are signed with `SECRET`.
fn signing(origins: &str, route: &str, sign: &str) -> Running {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("secret"), SECRET).unwrap();
    let rest = format!(
        "[[route]]\nname = \"all\"\nupstream = \"origin\"\n{route}\n\
         [[upstream]]\nname = \"origin\"\norigins = [{origins}]\n\
         [upstream.sign]\nkey_id = \"edge\"\n{sign}\n"
    );
    Setup::new(rest).start_in(dir)
}

const BY_SECRET: &str = "secret = \"file:secret\"\n";

/// The one line of a field.
fn field(request: &str, name: &str) -> String {
    let lines = fields(request, name);
    assert_eq!(lines.len(), 1, "{name}: {request}");
    lines[0].to_owned()
}

/// The parameters and the signature that stand under `tollgate`, which must be last.
fn signature_of(request: &str) -> (String, Vec<u8>) {
    let input = field(request, "signature-input");
    let (_, params) = input.rsplit_once("tollgate=").unwrap();
    let signature = field(request, "signature");
    let (_, signature) = signature.rsplit_once("tollgate=").unwrap();
    (params.to_owned(), STANDARD.decode(signature.trim_matches(':')).unwrap())
}

/// Whether this is what was signed, with the parameters that stand in the request.
fn is_signed(request: &str, covered: &str) -> bool {
    let (params, signature) = signature_of(request);
    let base = format!("{covered}\"@signature-params\": {params}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    hmac::verify(&key, base.as_bytes(), &signature).is_ok()
}

#[tokio::test]
async fn what_is_signed_is_what_the_origin_sees() {
    within(async {
        let origin = Origin::named("ok").await;
        let route = "path = \"/api\"\nrewrite_prefix = \"/v1\"\n\
                     [route.headers.request.set]\ncontent-type = \"text/x-set\"";
        let proxy = signing(&format!("\"{origin}\""), route, BY_SECRET);
        assert_eq!(get(proxy.address, "/api/a%20b?x=1&y=%2f", "").await.status, 200);
        let request = origin.request();
        let covered = "\"@method\": GET\n\"@authority\": a.test\n\"@path\": /v1/a%20b\n\
                       \"@query\": ?x=1&y=%2f\n\"content-type\": text/x-set\n";
        assert!(is_signed(&request, covered), "{request}");
        assert!(!is_signed(&request, &covered.replace("/v1", "/api")), "{request}");
        let (params, _) = signature_of(&request);
        let covers = "(\"@method\" \"@authority\" \"@path\" \"@query\" \"content-type\");created=";
        assert!(params.starts_with(covers), "{params}");
        let number = |name: &str| -> u64 {
            let (_, rest) = params.split_once(&format!(";{name}=")).unwrap();
            rest.split(';').next().unwrap().parse().unwrap()
        };
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!(now.abs_diff(number("created")) < 60, "{params}");
        assert_eq!(number("expires"), number("created") + 300);
        assert!(params.contains(";keyid=\"edge\";nonce=\""), "{params}");
    })
    .await;
}

#[tokio::test]
async fn each_attempt_is_signed_for_the_origin_that_it_goes_to() {
    within(async {
        let (refusing, origin) = (Refusing::new(), Origin::named("ok").await);
        let origins = format!("\"http://{refusing}\", \"{origin}\"");
        let proxy = signing(&origins, "host = \"origin\"", BY_SECRET);
        for _ in 0..2 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        let requests = origin.requests();
        assert_eq!(requests.len(), 2);
        for request in requests {
            let covered = format!(
                "\"@method\": GET\n\"@authority\": {}\n\"@path\": /\n\"@query\": ?\n",
                origin.address
            );
            assert!(is_signed(&request, &covered), "{request}");
        }
        assert!(proxy.log_lines(2).await.join("\n").contains("attempts=2"));
    })
    .await;
}

#[tokio::test]
async fn a_client_cannot_sign_in_our_name_and_keeps_its_own_signature() {
    within(async {
        let origin = Origin::named("ok").await;
        let proxy = signing(&format!("\"{origin}\""), "", BY_SECRET);
        let forged = "Signature-Input: tollgate=();keyid=\"edge\"\r\n\
                      Signature-Input: own=(\"date\");keyid=\"client\"\r\n\
                      Signature: tollgate=:AAAA:, own=:AQID:\r\n";
        assert_eq!(get(proxy.address, "/", forged).await.status, 200);
        let request = origin.request();
        let input = field(&request, "signature-input");
        assert!(input.starts_with("own=(\"date\");keyid=\"client\", tollgate=(\"@m"), "{input}");
        assert_eq!(input.matches("tollgate=").count(), 1);
        let signature = field(&request, "signature");
        assert!(signature.starts_with("own=:AQID:, tollgate=:"), "{signature}");
        assert!(!signature.contains("AAAA"));
        let covered = "\"@method\": GET\n\"@authority\": a.test\n\"@path\": /\n\"@query\": ?\n";
        assert!(is_signed(&request, covered), "{request}");
    })
    .await;
}

#[tokio::test]
async fn a_body_is_signed_by_its_digest() {
    within(async {
        let origin = Origin::named("ok").await;
        let with_digest = format!("{BY_SECRET}digest_body = \"1KiB\"\nnonce = false\n");
        let proxy = signing(&format!("\"{origin}\""), "", &with_digest);
        let post = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\
                    Content-Digest: sha-256=:AAAA:\r\nExpect: 100-continue\r\n\r\n\
                    7\r\n{\"hello\r\nb\r\n\": \"world\"}\r\n0\r\n\r\n";
        let mut client = crate::support::client::Raw::connect(proxy.address).await;
        client.send(post).await;
        let interim = client.answer().await;
        let answer = if interim.status == 100 { client.answer().await } else { interim };
        assert_eq!(answer.status, 200);
        let request = origin.request();
        assert!(request.ends_with("\r\n\r\n{\"hello\": \"world\"}"), "{request}");
        assert_eq!(field(&request, "content-length"), "18");
        let digest = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
        assert_eq!(field(&request, "content-digest"), digest);
        let covered = format!(
            "\"@method\": POST\n\"@authority\": a.test\n\"@path\": /\n\"@query\": ?\n\
             \"content-digest\": {digest}\n"
        );
        assert!(is_signed(&request, &covered), "{request}");

        let long = "x".repeat(1025);
        for framed in [
            format!("Content-Length: 1025\r\n\r\n{long}"),
            format!("Transfer-Encoding: chunked\r\n\r\n401\r\n{long}\r\n0\r\n\r\n"),
        ] {
            let post = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framed}");
            assert_eq!(ask(proxy.address, post).await.status, 413);
        }
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn over_http_2_the_signature_is_of_what_stands_in_its_pseudo_fields() {
    within(async {
        let (heard, mut heads) = tokio::sync::mpsc::unbounded_channel();
        let origin = Origin::h2c(move |request| {
            let target = request.uri().to_string();
            let of = |name: &str| {
                let value = request.headers().get(name).unwrap();
                format!("{name}: {}", value.to_str().unwrap())
            };
            let fields = [of("signature-input"), of("signature")].join("\n");
            heard.send((target, fields)).unwrap();
            http::Response::default()
        })
        .await;
        let sign = format!("{BY_SECRET}components = [\"@target-uri\", \"@method\"]\n");
        let proxy = signing(&format!("\"{origin}\""), "", &sign);
        assert_eq!(get(proxy.address, "/a?b", "").await.status, 200);
        let (target, request) = heads.recv().await.unwrap();
        assert_eq!(target, "http://a.test/a?b");
        let covered = format!("\"@target-uri\": {target}\n\"@method\": GET\n");
        assert!(is_signed(&request, &covered), "{request}");
    })
    .await;
}

#[tokio::test]
async fn a_private_key_signs_what_its_public_key_verifies() {
    within(async {
        let origin = Origin::named("ok").await;
        let dir = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        let rest = format!(
            "[[route]]\nname = \"all\"\nupstream = \"origin\"\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [upstream.sign]\nkey_id = \"edge\"\nalgorithm = \"ed25519\"\n\
             private_key = \"key.pem\"\ncomponents = [\"@path\"]\nexpires = \"never\"\n"
        );
        let proxy = Setup::new(rest).start_in(dir);
        assert_eq!(get(proxy.address, "/a", "").await.status, 200);
        let (params, signature) = signature_of(&origin.request());
        assert!(!params.contains("expires"), "{params}");
        let base = format!("\"@path\": /a\n\"@signature-params\": {params}");
        let public = key.subject_public_key_info();
        let public = signature::UnparsedPublicKey::new(&signature::ED25519, public);
        public.verify(base.as_bytes(), &signature).unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_signed_is_the_clients_mistake() {
    within(async {
        let origin = Origin::named("ok").await;
        let proxy = signing(&format!("\"{origin}\""), "", BY_SECRET);
        assert_eq!(get(proxy.address, "/", "Content-Type: caf\u{e9}\r\n").await.status, 400);
        assert!(origin.requests().is_empty());
    })
    .await;
}
