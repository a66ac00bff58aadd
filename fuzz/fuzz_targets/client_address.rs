//! Whose request it is: no matter how the lists are spaced or split over lines,
//! and whatever a client wrote before it reached a trusted proxy.
#![no_main]

use std::convert::Infallible;
use std::net::IpAddr;

use http::Request;
use http::header::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tollgate::context::Exchange;
use tollgate::layers::{ClientAddressLayer, TrustSettings};
use tollgate_fuzz::exchange;
use tower::{Layer, Service, service_fn};

const TRUSTED: [&str; 2] = ["10.0.0.0/8", "2001:db8::/32"];

fuzz_target!(|bytes: &[u8]| {
    for name in ["x-forwarded-for", "forwarded"] {
        let name = HeaderName::from_static(name);
        let lines: Vec<Vec<u8>> =
            bytes.split(|byte| *byte == b'\n').take(50).map(<[u8]>::to_vec).collect();
        let values = lines.iter().map(|line| HeaderValue::from_bytes(line));
        if values.clone().any(|value| value.is_err()) {
            return;
        }
        let client = derived(&name, &lines, "10.0.0.1:1");
        assert_eq!(derived(&name, &lines, "192.0.2.1:1"), "192.0.2.1".parse::<IpAddr>().unwrap());
        let spaced: Vec<Vec<u8>> = lines.iter().map(|line| spaced(line)).collect();
        assert_eq!(derived(&name, &spaced, "10.0.0.1:1"), client);
        let is_text = |line: &Vec<u8>| line.iter().all(|byte| matches!(byte, 0x20..0x7f | b'\t'));
        if lines.iter().all(is_text) {
            assert_eq!(derived(&name, &[lines.join(&b", "[..])], "10.0.0.1:1"), client);
        }
        let is_trusted = TRUSTED
            .iter()
            .any(|network| network.parse::<ipnet::IpNet>().unwrap().contains(&client));
        if !is_trusted {
            let hearsay = b"for=6.6.6.6, 6.6.6.6, x".to_vec();
            let longer: Vec<Vec<u8>> = std::iter::once(hearsay).chain(lines).collect();
            assert_eq!(derived(&name, &longer, "10.0.0.1:1"), client);
        }
        assert_eq!(client, client.to_canonical());
    }
});

fn spaced(line: &[u8]) -> Vec<u8> {
    let elements: Vec<&[u8]> = line.split(|byte| *byte == b',').collect();
    [b" \t", &elements.join(&b"\t , "[..])[..], b" "].concat()
}

fn derived(name: &HeaderName, lines: &[Vec<u8>], peer: &str) -> IpAddr {
    let trust = TrustSettings {
        proxies: TRUSTED.iter().map(|network| network.parse().unwrap()).collect(),
        ..TrustSettings::default()
    };
    let mut request = Request::new(());
    for line in lines {
        request.headers_mut().append(name, HeaderValue::from_bytes(line).unwrap());
    }
    let exchange = exchange(peer, None);
    request.extensions_mut().insert::<Exchange>(exchange.clone());
    let inner = service_fn(|_: Request<()>| std::future::ready(Ok::<_, Infallible>(())));
    let _called = ClientAddressLayer::new(&trust).layer(inner).call(request);
    exchange.client().unwrap()
}
