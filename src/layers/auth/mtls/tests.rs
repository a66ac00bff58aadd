use std::convert::Infallible;

use http::{Request, Response};
use tower::{Layer, ServiceExt};

use super::*;
use crate::body::Body;
use crate::context::{Downstream, TlsFacts};
use crate::layers::AuthLayer;

fn certificate() -> ClientCertificate {
    ClientCertificate {
        subject: "CN=web,OU=ops,O=Example".into(),
        common_name: Some("web".into()),
        issuer: "CN=Others".into(),
        authority: "CN=Clients".into(),
        serial: "1f".into(),
        names: Box::new([
            SubjectName::Dns("web.clients.test".into()),
            SubjectName::Uri("spiffe://test/web".into()),
        ]),
        sha256: "ab".repeat(32).into(),
        not_after: i64::MAX,
        chain: Box::new([Box::new([1, 2, 3]), Box::new([4]), Box::new([5])]),
    }
}

/// What the origin sees of a request over a connection with this certificate.
async fn ask(
    settings: &MtlsSettings,
    client: Option<ClientCertificate>,
    fields: &[(&str, &str)],
) -> Response<Body> {
    let echo = |request: Request<Body>| async move {
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = request.headers().clone();
        Ok::<_, Infallible>(response)
    };
    let tls = TlsFacts { client: client.map(Arc::new), ..TlsFacts::default() };
    let downstream = Arc::new(Downstream { tls: Some(tls), ..Downstream::default() });
    let mut request = Request::get("/").extension(downstream);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let service = AuthLayer::by(Mtls::new(settings)).layer(tower::service_fn(echo));
    service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn status(settings: &MtlsSettings, client: Option<ClientCertificate>) -> u16 {
    ask(settings, client, &[]).await.status().as_u16()
}

#[tokio::test]
async fn whom_the_listener_vouches_for_is_let_in_and_nobody_else_is() {
    let anybody = MtlsSettings::default();
    assert_eq!(status(&anybody, Some(certificate())).await, 200);
    let nobody = ask(&anybody, None, &[]).await;
    assert_eq!(nobody.status(), 401);
    assert!(nobody.headers().contains_key("www-authenticate"));
    let expired = ClientCertificate { not_after: 1_700_000_000, ..certificate() };
    assert_eq!(status(&anybody, Some(expired)).await, 403);
}

#[tokio::test]
async fn one_entry_has_to_match_and_one_authority_besides() {
    let none = MtlsSettings::default;
    let subjects = |text: &str| vec![text.parse().unwrap()];
    for (settings, expected) in [
        (MtlsSettings { subjects: subjects("CN=*,OU=ops,O=Example"), ..none() }, 200),
        (MtlsSettings { subjects: subjects("CN=db,OU=ops,O=Example"), ..none() }, 403),
        (MtlsSettings { names: vec!["dns:*.clients.test".parse().unwrap()], ..none() }, 200),
        (MtlsSettings { names: vec!["dns:*.other.test".parse().unwrap()], ..none() }, 403),
        (MtlsSettings { fingerprints: vec![[0xab; 32]], ..none() }, 200),
        (MtlsSettings { fingerprints: vec![[0xaa; 32]], ..none() }, 403),
        (MtlsSettings { fingerprints: vec![[0; 32]], subjects: subjects("**"), ..none() }, 200),
        (MtlsSettings { issuers: subjects("CN=Clients"), ..none() }, 200),
        (MtlsSettings { issuers: subjects("CN=Others"), ..none() }, 403),
        (MtlsSettings { subjects: subjects("**"), issuers: subjects("CN=Others"), ..none() }, 403),
    ] {
        assert_eq!(status(&settings, Some(certificate())).await, expected, "{settings:?}");
    }
}

#[tokio::test]
async fn the_origin_is_told_what_it_is_to_know_and_believes_nobody_else() {
    let forged = [
        ("client-cert", ":AAAA:"),
        ("client_cert", ":AAAA:"),
        ("client-cert-chain", ":AAAA:"),
        ("x_client", "root"),
    ];
    let settings = MtlsSettings {
        identity_header: Some(HeaderName::from_static("x-client")),
        forward_certificate: true,
        forward_chain: true,
        ..MtlsSettings::default()
    };
    let response = ask(&settings, Some(certificate()), &forged).await;
    assert_eq!(response.headers().len(), 3, "{:?}", response.headers());
    assert_eq!(response.headers()["x-client"], "web");
    assert_eq!(response.headers()["client-cert"], ":AQID:");
    assert_eq!(response.headers()["client-cert-chain"], ":BA==:, :BQ==:");
    let alone = ClientCertificate { chain: Box::new([Box::new([1, 2, 3])]), ..certificate() };
    let response = ask(&settings, Some(alone), &[]).await;
    assert!(!response.headers().contains_key("client-cert-chain"));
    // Whatever it sets, a client brings none of it along.
    let fields = Mtls::new(&MtlsSettings::default()).identity_fields();
    assert_eq!(fields, [CLIENT_CERT, CLIENT_CERT_CHAIN]);
}

#[test]
fn the_name_is_what_is_asked_for_or_what_there_is() {
    let name = |name, names: &[&str], certificate: &ClientCertificate| {
        let names = names.iter().map(|text| text.parse().unwrap()).collect();
        let settings = MtlsSettings { name, names, ..MtlsSettings::default() };
        Mtls::new(&settings).name(certificate).to_string()
    };
    let all = certificate();
    let fingerprint = format!("sha256:{}", all.sha256);
    assert_eq!(name(MtlsName::CommonName, &[], &all), "web");
    assert_eq!(name(MtlsName::Subject, &[], &all), "CN=web,OU=ops,O=Example");
    assert_eq!(name(MtlsName::Fingerprint, &[], &all), fingerprint);
    assert_eq!(name(MtlsName::SubjectName, &[], &all), "web.clients.test");
    assert_eq!(name(MtlsName::SubjectName, &["uri:**"], &all), "spiffe://test/web");
    let bare = ClientCertificate { common_name: None, names: Box::default(), ..all };
    for asked in [MtlsName::CommonName, MtlsName::SubjectName] {
        assert_eq!(name(asked, &[], &bare), "CN=web,OU=ops,O=Example");
    }
    let empty = ClientCertificate { subject: "".into(), ..bare };
    assert_eq!(name(MtlsName::Subject, &[], &empty), fingerprint);
}

#[test]
fn what_limits_may_go_by_is_said_and_worked_out_once_for_a_connection() {
    let mtls = Mtls::new(&MtlsSettings { scopes: vec!["read".into()], ..MtlsSettings::default() });
    let tls = TlsFacts { client: Some(Arc::new(certificate())), ..TlsFacts::default() };
    let downstream = Arc::new(Downstream { tls: Some(tls), ..Downstream::default() });
    let request = Request::get("/").extension(downstream).body(()).unwrap();
    let (parts, ()) = request.into_parts();
    let identity = |mtls: &Mtls| match mtls.judge(&Asked::of(&parts, None)) {
        Judging::Now(Verdict::Granted(grant)) => grant.identity.unwrap(),
        other => panic!("{other:?}"),
    };
    let first = identity(&mtls);
    assert_eq!((&*first.name, first.scheme), ("web", "mtls"));
    assert!(first.has_scope("read"));
    let claims = serde_json::to_value(&first.claims).unwrap();
    assert_eq!(
        claims,
        serde_json::json!({
            "subject": "CN=web,OU=ops,O=Example", "issuer": "CN=Others", "serial": "1f",
            "cn": "web", "fingerprint": format!("sha256:{}", "ab".repeat(32)),
            "san": ["dns:web.clients.test", "uri:spiffe://test/web"],
        })
    );
    assert!(Arc::ptr_eq(&first, &identity(&mtls)));
    // Another of the same settings is another.
    let other = Mtls::new(&MtlsSettings::default());
    assert!(!Arc::ptr_eq(&first, &identity(&other)));
    assert!(!identity(&other).has_scope("read"));
}
