//! The keys of `[[listener]]` and of its certificates.

use super::keys::Keys;
use super::spell::{duration, duration_or_off, memory_size, min_rate, path, size};
use crate::accept::{ListenerSettings, ProxyProtocolSettings};
use crate::context::HeadLimits;
use crate::serve::{H2Settings, ServeSettings};
use crate::tls::{
    CertificateSettings, ClientAuthMode, ClientAuthSettings, TlsSettings, TlsVersion,
    UnknownRevocation,
};

/// All but its certificates, of which only their order is compared.
pub(super) fn listener(settings: &ListenerSettings) -> Keys {
    let ListenerSettings { name: _, addresses, unix_mode, backlog, tls, proxy_protocol, serve } =
        settings;
    let mut keys = Keys::default();
    keys.list("address", addresses);
    keys.one("unix_mode", format!("{unix_mode:04o}"));
    keys.one("backlog", backlog);
    serve_keys(&mut keys, serve);
    if let Some(tls) = tls {
        keys.table("tls", tls_keys(tls));
    }
    if let Some(proxies) = proxy_protocol {
        keys.table("proxy_protocol", proxies_keys(proxies));
    }
    keys
}

fn serve_keys(keys: &mut Keys, settings: &ServeSettings) {
    let ServeSettings {
        http1,
        http2,
        request_head_timeout,
        keep_alive_timeout,
        send_timeout,
        min_response_rate,
        max_request_head,
        head: HeadLimits { max_target, max_fields },
        h2,
    } = settings;
    let protocols = [(*http2, "h2"), (*http1, "http/1.1")];
    keys.list("protocols", protocols.into_iter().filter(|(on, _)| *on).map(|(_, name)| name));
    keys.one("request_head_timeout", duration(*request_head_timeout));
    keys.one("keep_alive_timeout", duration(*keep_alive_timeout));
    keys.one("send_timeout", duration(*send_timeout));
    min_rate(keys, "min_response_rate", "response_rate_grace", *min_response_rate);
    keys.one("max_request_head", memory_size(*max_request_head));
    keys.one("max_fields", max_fields);
    keys.one("max_target", memory_size(*max_target));
    keys.table("h2", h2_keys(h2));
}

fn h2_keys(settings: &H2Settings) -> Keys {
    let H2Settings {
        max_concurrent_streams,
        stream_window,
        connection_window,
        max_frame_size,
        max_header_list,
        send_buffer,
        max_resets,
        max_pending_resets,
        max_error_resets,
        max_control_frames,
        ping_interval,
        ping_timeout,
        extended_connect,
    } = settings;
    let mut keys = Keys::default();
    let in_words = |bytes: u32| size(u64::from(bytes));
    let as_the_head = || "max_request_head".to_owned();
    keys.one("max_concurrent_streams", max_concurrent_streams);
    keys.one("stream_window", in_words(*stream_window));
    keys.one("connection_window", in_words(*connection_window));
    keys.one("max_frame_size", in_words(*max_frame_size));
    keys.one("max_header_list", max_header_list.map_or_else(as_the_head, in_words));
    keys.one("send_buffer", in_words(*send_buffer));
    keys.one("max_resets", max_resets);
    keys.one("max_pending_resets", max_pending_resets);
    keys.one("max_error_resets", max_error_resets);
    keys.one("max_control_frames", max_control_frames);
    keys.one("ping_interval", duration(*ping_interval));
    keys.one("ping_timeout", duration(*ping_timeout));
    keys.one("extended_connect", extended_connect);
    keys
}

fn tls_keys(settings: &TlsSettings) -> Keys {
    let TlsSettings { certificates, min_version, handshake_timeout, expiry_warning, client_auth } =
        settings;
    let mut keys = Keys::default();
    keys.order("certificates", certificates.iter().map(|one| path(&one.certificate)));
    keys.one(
        "min_version",
        match min_version {
            TlsVersion::Tls12 => "1.2",
            TlsVersion::Tls13 => "1.3",
        },
    );
    keys.one("handshake_timeout", duration(*handshake_timeout));
    keys.one("expiry_warning", duration_or_off(*expiry_warning));
    if let Some(client_auth) = client_auth {
        keys.table("client_auth", client_auth_keys(client_auth));
    }
    keys
}

fn client_auth_keys(settings: &ClientAuthSettings) -> Keys {
    let ClientAuthSettings { ca, mode, revoked, unknown_revocation } = settings;
    let mut keys = Keys::default();
    keys.one("ca", path(ca));
    keys.one(
        "mode",
        match mode {
            ClientAuthMode::Require => "require",
            ClientAuthMode::Request => "request",
        },
    );
    keys.list("crl", revoked.iter().map(|file| path(file)));
    keys.one(
        "unknown_revocation",
        match unknown_revocation {
            UnknownRevocation::Refuse => "refuse",
            UnknownRevocation::Accept => "accept",
        },
    );
    keys
}

pub(super) fn certificate(settings: &CertificateSettings) -> Keys {
    let CertificateSettings { certificate: _, key, names } = settings;
    let mut keys = Keys::default();
    keys.one("key", path(key));
    keys.list("names", names);
    keys
}

fn proxies_keys(settings: &ProxyProtocolSettings) -> Keys {
    let ProxyProtocolSettings { from, from_unix, timeout, max_header } = settings;
    let mut keys = Keys::default();
    let unix = from_unix.then(|| "unix".to_owned());
    keys.list("from", from.iter().map(ToString::to_string).chain(unix));
    keys.one("timeout", duration(*timeout));
    keys.one("max_header", memory_size(*max_header));
    keys
}
