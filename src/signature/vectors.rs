//! The test cases of RFC 9421, Appendix B.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::*;

const RSA_PSS: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2\
    +QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+\
    oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq\
    gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W\
    Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4\
    aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI\
    2wIDAQAB";
const ECC_P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf\
    w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==";
const ED25519: &str = "MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=";
const ED25519_PRIVATE: &str = "MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF";
const SHARED_SECRET: &str = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtb\
    mHhIDi6pcl8jsasjlTMtDQ==";
const DIGEST: &str = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BN\
    NyealdVLvRwEmTHWXvJwew==:";

fn bytes(base64: &str) -> Vec<u8> {
    STANDARD.decode(base64).unwrap()
}

/// The request of Appendix B.2.
fn request(input: &str, signature: &str) -> HeaderMap {
    let fields = [
        ("host", "example.com"),
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        ("content-digest", DIGEST),
        ("content-length", "18"),
        ("signature-input", input),
        ("signature", signature),
    ];
    let field =
        |(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    fields.map(field).into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn in_message<T>(headers: &HeaderMap, of: impl FnOnce(&Message<'_>) -> T) -> T {
    of(&Message {
        method: &Method::POST,
        scheme: Scheme::Https,
        authority: "example.com",
        target: &Uri::from_static("/foo?param=Value&Pet=dog"),
        is_absolute: false,
        headers,
    })
}

/// Verifies the one signature of the request; its base must be this.
fn check(key: &VerifyingKey, label: &str, input: &str, signature: &str, base: &str) {
    let headers = request(&format!("{label}={input}"), &format!("{label}=:{signature}:"));
    let received = read(&headers).unwrap().remove(0);
    assert_eq!(in_message(&headers, |message| received.base(message)).unwrap(), base);
    assert!(key.verifies(base.as_bytes(), received.signature()), "{label}");
    let other = base.replace("1618884473", "1618884474");
    assert!(!key.verifies(other.as_bytes(), received.signature()), "{label}");
}

#[test]
fn b_2_1_minimal_signature_using_rsa_pss_sha512() {
    let input = "();created=1618884473;keyid=\"test-key-rsa-pss\";\
                 nonce=\"b3k2pp5k7z-50gnwp.yemd\"";
    let signature = "d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq\
        786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2\
        cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8j\
        YzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ\
        98Xw9Q==";
    let key = VerifyingKey::public(Algorithm::RsaPssSha512, &bytes(RSA_PSS)).unwrap();
    check(&key, "sig-b21", input, signature, &format!("\"@signature-params\": {input}"));
}

#[test]
fn b_2_2_selective_covered_components_using_rsa_pss_sha512() {
    let input = "(\"@authority\" \"content-digest\" \"@query-param\";name=\"Pet\");\
                 created=1618884473;keyid=\"test-key-rsa-pss\";tag=\"header-example\"";
    let signature = "LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJj\
        tq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TR\
        JQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/\
        lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTu\
        gEjHSw==";
    let base = format!(
        "\"@authority\": example.com\n\"content-digest\": {DIGEST}\n\
         \"@query-param\";name=\"Pet\": dog\n\"@signature-params\": {input}"
    );
    let key = VerifyingKey::public(Algorithm::RsaPssSha512, &bytes(RSA_PSS)).unwrap();
    check(&key, "sig-b22", input, signature, &base);
}

#[test]
fn b_2_3_full_coverage_using_rsa_pss_sha512() {
    let input = "(\"date\" \"@method\" \"@path\" \"@query\" \"@authority\" \"content-type\" \
                 \"content-digest\" \"content-length\");created=1618884473;\
                 keyid=\"test-key-rsa-pss\"";
    let signature = "bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIR\
        ASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/y\
        PViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9\
        BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKE\
        gM4cUA==";
    let base = format!(
        "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@method\": POST\n\"@path\": /foo\n\
         \"@query\": ?param=Value&Pet=dog\n\"@authority\": example.com\n\
         \"content-type\": application/json\n\"content-digest\": {DIGEST}\n\
         \"content-length\": 18\n\"@signature-params\": {input}"
    );
    let key = VerifyingKey::public(Algorithm::RsaPssSha512, &bytes(RSA_PSS)).unwrap();
    check(&key, "sig-b23", input, signature, &base);
}

/// A response's, which is not for us to verify: what the algorithm has to make of its
/// base.
#[test]
fn b_2_4_signing_a_response_using_ecdsa_p256_sha256() {
    let base = "\"@status\": 200\n\"content-type\": application/json\n\
        \"content-digest\": sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX6\
        9wWdXymyU0rjJuahq4l5aGgfLQ==:\n\"content-length\": 23\n\
        \"@signature-params\": (\"@status\" \"content-type\" \"content-digest\" \
        \"content-length\");created=1618884473;keyid=\"test-key-ecc-p256\"";
    let signature = "wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlY\
        UEkLIj+32oiasw==";
    let key = VerifyingKey::public(Algorithm::EcdsaP256Sha256, &bytes(ECC_P256)).unwrap();
    assert!(key.verifies(base.as_bytes(), &bytes(signature)));
    assert!(!key.verifies(base.replace("200", "201").as_bytes(), &bytes(signature)));
}

const B25: &str = "(\"date\" \"@authority\" \"content-type\");created=1618884473;\
                   keyid=\"test-shared-secret\"";
const B25_SIGNATURE: &str = "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=";

#[test]
fn b_2_5_signing_a_request_using_hmac_sha256() {
    let base = format!(
        "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@authority\": example.com\n\
         \"content-type\": application/json\n\"@signature-params\": {B25}"
    );
    let key = VerifyingKey::secret(&bytes(SHARED_SECRET)).unwrap();
    check(&key, "sig-b25", B25, B25_SIGNATURE, &base);
}

const B26: &str = "(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \
                   \"content-length\");created=1618884473;keyid=\"test-key-ed25519\"";
const B26_SIGNATURE: &str = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu\
                             4A0w6vuQv5lIp5WPpBKRCw==";

#[test]
fn b_2_6_signing_a_request_using_ed25519() {
    let base = format!(
        "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@method\": POST\n\"@path\": /foo\n\
         \"@authority\": example.com\n\"content-type\": application/json\n\
         \"content-length\": 18\n\"@signature-params\": {B26}"
    );
    let key = VerifyingKey::public(Algorithm::Ed25519, &bytes(ED25519)).unwrap();
    check(&key, "sig-b26", B26, B26_SIGNATURE, &base);
}

/// Both algorithms are deterministic: what we sign is what the RFC has.
#[test]
fn b_2_5_and_b_2_6_are_signed_as_the_rfc_signs_them() {
    let secret = SigningKey::secret(&bytes(SHARED_SECRET)).unwrap();
    let private = SigningKey::private(Algorithm::Ed25519, &bytes(ED25519_PRIVATE)).unwrap();
    for (key, label, covered, params, signature) in [
        (secret, "sig-b25", &["date", "@authority", "content-type"][..], B25, B25_SIGNATURE),
        (
            private,
            "sig-b26",
            &["date", "@method", "@path", "@authority", "content-type", "content-length"][..],
            B26,
            B26_SIGNATURE,
        ),
    ] {
        let (_, key_id) = params.split_once("keyid=\"").unwrap();
        let mut settings = SignSettings::new(key, key_id.trim_end_matches('"'));
        settings.label = label.to_owned();
        settings.components = covered.iter().map(|text| text.parse().unwrap()).collect();
        (settings.expires, settings.nonce) = (None, false);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_618_884_473);
        let signed = in_message(&request("", ""), |message| {
            Signer::new(&settings).sign(message, now).unwrap()
        });
        assert_eq!(signed[0].1, format!("{label}={params}"));
        assert_eq!(signed[1].1, format!("{label}=:{signature}:"));
    }
}

#[test]
fn b_3_a_tls_terminating_proxy() {
    let certificate = ":MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50\
        aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVkaWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNa\
        MA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8YnXXfaUgmnMtOXU/IncWalRhebrXmck\
        C8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNVHSMEGDAW\
        gBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0R\
        AQH/BBMwEYEPYmRjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMje\
        SkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5XarmPk0wmuydBVoU4hBVZ1yhk=:";
    let input = "(\"@path\" \"@query\" \"@method\" \"@authority\" \"client-cert\");\
                 created=1618884473;keyid=\"test-key-ecc-p256\"";
    let signature = "xVMHVpawaAC/0SbHrKRs9i8I3eOs5RtTMGCWXm/9nvZzoHsIg6Mce9315T6xoklyy0yzhD9ah4JHR\
        wMLOgmizw==";
    let base = format!(
        "\"@path\": /foo\n\"@query\": ?param=Value&Pet=dog\n\"@method\": POST\n\
         \"@authority\": service.internal.example\n\"client-cert\": {certificate}\n\
         \"@signature-params\": {input}"
    );
    let mut headers = request(&format!("ttrp={input}"), &format!("ttrp=:{signature}:"));
    headers.insert("client-cert", HeaderValue::from_str(certificate).unwrap());
    let received = read(&headers).unwrap().remove(0);
    let target = Uri::from_static("/foo?param=Value&Pet=dog");
    let message = Message {
        method: &Method::POST,
        scheme: Scheme::Https,
        authority: "service.internal.example",
        target: &target,
        is_absolute: false,
        headers: &headers,
    };
    assert_eq!(received.base(&message).unwrap(), base);
    let key = VerifyingKey::public(Algorithm::EcdsaP256Sha256, &bytes(ECC_P256)).unwrap();
    assert!(key.verifies(base.as_bytes(), received.signature()));
}
