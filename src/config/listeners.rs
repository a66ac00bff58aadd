//! `[[listener]]`

use std::num::NonZeroU32;
use std::path::Path;

use super::client_auth;
use super::reader::{Fits, Misfit, Table, Value};
use super::units::{
    count, duration, duration_or_off, file, file_mode, frame_size, listen_address, memory_size,
    network_or_unix, positive, set_min_rate, size_in_u32, window,
};
use crate::accept::{ListenAddress, ListenerSettings, ProxyProtocolSettings};
use crate::proxy_protocol::{MAX_LENGTH, MIN_MAX_LENGTH};
use crate::route::HostPattern;
use crate::serve::{H2Settings, ServeSettings};
use crate::tls::{CertificateSettings, TlsSettings, TlsVersion};

const ELSEWHERE: [(&str, &str); 9] = [
    ("listen", "address"),
    ("bind", "address"),
    ("port", "address"),
    ("addresses", "address"),
    ("alpn", "protocols"),
    ("mode", "unix_mode"),
    ("socket_mode", "unix_mode"),
    ("accept_proxy", "[listener.proxy_protocol]"),
    ("min_rate", "min_response_rate"),
];

pub(super) fn read(root: &mut Table<'_>, base: &Path) -> Vec<ListenerSettings> {
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    let tables = root.tables("listener");
    if tables.is_empty() {
        let hint = "[[listener]]\nname = \"public\"\naddress = \"0.0.0.0:8080\"";
        root.complain("there is no `[[listener]]`", Some(hint.to_owned()));
    }
    for table in tables {
        let taken: Vec<ListenAddress> =
            listeners.iter().flat_map(|l| l.addresses.clone()).collect();
        let names: Vec<String> = listeners.iter().map(|l| l.name.clone()).collect();
        listeners.push(listener(table, base, &names, &taken));
    }
    listeners
}

fn listener(
    mut table: Table<'_>,
    base: &Path,
    names: &[String],
    taken: &[ListenAddress],
) -> ListenerSettings {
    let name = table.require("name", "a word for logs and metrics", |v| unique(v, names));
    let address = |value: &Value<'_>| {
        let address = listen_address(value, base)?;
        let chosen = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        if !chosen && taken.contains(&address) {
            return Err(Misfit::new(format!("another listener has `{address}` already")));
        }
        Ok(address)
    };
    if !table.has("address") {
        table.complain("the key `address` is missing: where to listen", None);
    }
    let addresses = table.list("address", address).unwrap_or_default();
    let unix = addresses.iter().any(|address| matches!(address, ListenAddress::Unix(_)));
    let unix_mode = table.read("unix_mode", |v| match file_mode(v) {
        Ok(_) if !unix => Err(Misfit::new("there is no Unix socket among the addresses")),
        mode => mode,
    });
    let mut serve = ServeSettings::default();
    if let Some(protocols) = table.list("protocols", protocol) {
        serve.http1 = protocols.contains(&"http/1.1");
        serve.http2 = protocols.contains(&"h2");
        if table.value("protocols").is_some_and(|protocols| protocols.is_empty_list()) {
            table.complain("`protocols` names no protocol", None);
        }
    }
    table.set("request_head_timeout", &mut serve.request_head_timeout, duration);
    table.set("keep_alive_timeout", &mut serve.keep_alive_timeout, duration);
    table.set("send_timeout", &mut serve.send_timeout, duration);
    let (rate, grace) = (table.value("min_response_rate"), table.value("response_rate_grace"));
    set_min_rate(&mut serve.min_response_rate, rate.as_ref(), grace.as_ref());
    table.set("max_request_head", &mut serve.max_request_head, memory_size);
    table.set("max_fields", &mut serve.head.max_fields, count);
    table.set("max_target", &mut serve.head.max_target, memory_size);
    if let Some(h2) = table.table("h2") {
        serve.h2 = h2_settings(h2);
    }
    let backlog = table.read("backlog", |v| v.integer("a number", 1, 65_535));
    let tls = table.table("tls").map(|tls| tls_settings(tls, base));
    let proxy_protocol = table.table("proxy_protocol").map(|table| proxies(table, &addresses));
    table.finish(&ELSEWHERE);
    ListenerSettings {
        name: name.unwrap_or_default(),
        addresses,
        unix_mode: unix_mode.unwrap_or(0o660),
        backlog: backlog.and_then(|backlog| u32::try_from(backlog).ok()).unwrap_or(1024),
        tls,
        proxy_protocol,
        serve,
    }
}

/// `[listener.proxy_protocol]`
fn proxies(mut table: Table<'_>, addresses: &[ListenAddress]) -> ProxyProtocolSettings {
    let unix = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
    let mut settings = ProxyProtocolSettings::new(Vec::new());
    if !table.has("from") {
        let hint = "from = [\"10.0.0.0/8\"]".to_owned();
        table.complain("the key `from` is missing: whose headers are believed", Some(hint));
    }
    let from = table.list("from", |value| {
        let from = network_or_unix(value)?;
        match from {
            None if !addresses.iter().any(unix) => {
                Err(Misfit::new("there is no Unix socket among the addresses"))
            }
            Some(_) if !addresses.is_empty() && addresses.iter().all(unix) => {
                Err(Misfit::new("who connects over a Unix socket has no address")
                    .hint("write \"unix\""))
            }
            from => Ok(from),
        }
    });
    if table.value("from").is_some_and(|from| from.is_empty_list()) {
        table.complain("`from` names nobody", None);
    }
    let from = from.unwrap_or_default();
    settings.from_unix = from.contains(&None);
    settings.from = from.into_iter().flatten().collect();
    table.set("timeout", &mut settings.timeout, duration);
    table.set("max_header", &mut settings.max_header, |v| match memory_size(v)? {
        size if (MIN_MAX_LENGTH..=MAX_LENGTH).contains(&size) => Ok(size),
        _ => Err(Misfit::new(format!("expected {MIN_MAX_LENGTH} to {MAX_LENGTH} bytes"))),
    });
    table.finish(&[("trusted", "from"), ("networks", "from"), ("header_timeout", "timeout")]);
    settings
}

/// A name that no other of its kind has.
pub(super) fn unique(value: &Value<'_>, others: &[String]) -> Fits<String> {
    let name = value.string("a name")?;
    if name.is_empty() {
        return Err(Misfit::new("a name is not empty"));
    }
    if others.iter().any(|other| other == name) {
        return Err(Misfit::new(format!("the name `{name}` is taken already")));
    }
    Ok(name.to_owned())
}

fn protocol(value: &Value<'_>) -> Fits<&'static str> {
    value.word(&[("h2", "h2"), ("http/1.1", "http/1.1")])
}

fn h2_settings(mut table: Table<'_>) -> H2Settings {
    let mut h2 = H2Settings::default();
    let number = |value: &Value<'_>| positive(value).map(NonZeroU32::get);
    table.set("max_concurrent_streams", &mut h2.max_concurrent_streams, number);
    table.set("stream_window", &mut h2.stream_window, window);
    table.set("connection_window", &mut h2.connection_window, window);
    table.set("max_frame_size", &mut h2.max_frame_size, frame_size);
    table.set("max_header_list", &mut h2.max_header_list, |v| size_in_u32(v).map(Some));
    table.set("send_buffer", &mut h2.send_buffer, size_in_u32);
    table.set("max_resets", &mut h2.max_resets, number);
    table.set("max_pending_resets", &mut h2.max_pending_resets, count);
    table.set("max_error_resets", &mut h2.max_error_resets, count);
    table.set("max_control_frames", &mut h2.max_control_frames, number);
    table.set("ping_interval", &mut h2.ping_interval, duration);
    table.set("ping_timeout", &mut h2.ping_timeout, duration);
    table.set("extended_connect", &mut h2.extended_connect, Value::boolean);
    table.finish(&[]);
    h2
}

fn tls_settings(mut table: Table<'_>, base: &Path) -> TlsSettings {
    let mut tls = TlsSettings::new(Vec::new());
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    table.set("min_version", &mut tls.min_version, |v| v.word(&versions));
    table.set("handshake_timeout", &mut tls.handshake_timeout, duration);
    table.set("expiry_warning", &mut tls.expiry_warning, duration_or_off);
    let given = table.value("certificates");
    let items = given.as_ref().and_then(|value| value.items("a list of tables"));
    match items {
        Some(items) if items.is_empty() => table.complain("there is no certificate", None),
        Some(items) => {
            let tables = items.iter().filter_map(Value::table);
            tls.certificates = tables.filter_map(|table| certificate(table, base)).collect();
        }
        None if given.is_none() => table.complain(
            "the key `certificates` is missing",
            Some(
                "certificates = [{ certificate = \"certs/a.crt\", key = \"certs/a.key\" }]"
                    .to_owned(),
            ),
        ),
        None => {}
    }
    tls.client_auth = table.table("client_auth").map(|table| client_auth::read(table, base));
    table.finish(&[
        ("certificate", "certificates"),
        ("cert", "certificates"),
        ("timeout", "handshake_timeout"),
        ("warn_before", "expiry_warning"),
        ("mtls", "[listener.tls.client_auth]"),
        ("clientAuth", "[listener.tls.client_auth]"),
        ("client_ca", "[listener.tls.client_auth]"),
        ("verify_client", "[listener.tls.client_auth]"),
    ]);
    tls
}

fn certificate(mut table: Table<'_>, base: &Path) -> Option<CertificateSettings> {
    let certificate = table.require("certificate", "the chain in PEM", |v| file(v, base));
    let key = table.require("key", "the private key in PEM", |v| file(v, base));
    let names = table.list("names", |v| v.parsed::<HostPattern>("a server name"));
    table.finish(&[("cert", "certificate"), ("cert_file", "certificate"), ("key_file", "key")]);
    let names = names.unwrap_or_default().iter().map(ToString::to_string).collect();
    Some(CertificateSettings { certificate: certificate?, key: key?, names })
}
