//! What of an upstream's settings an origin and its connections depend on.

use super::tls::{ClientTls, Trust};
use super::{OriginScheme, OriginUrl, Protocol, UpstreamH2, UpstreamSettings, UpstreamTimeouts};
use crate::proxy_protocol;

/// Two origins at one place with the same basis are the same: connections of one
/// are as good as those of the other.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Basis {
    proxy_protocol: Option<proxy_protocol::Version>,
    timeouts: UpstreamTimeouts,
    max_idle: usize,
    max_connections: Option<usize>,
    /// `None` where HTTP/2 is never spoken.
    h2: Option<UpstreamH2>,
    /// `None` where TLS is not spoken.
    tls: Option<Tls>,
}

#[derive(Clone, Debug, PartialEq)]
struct Tls {
    protocol: Protocol,
    server_name: Option<String>,
    trust: Trust,
}

impl Basis {
    pub(super) fn of(url: &OriginUrl, settings: &UpstreamSettings, tls: &ClientTls) -> Self {
        // How long a tunnel may be silent is nothing that its origin looks at.
        let timeouts =
            UpstreamTimeouts { idle_tunnel: std::time::Duration::ZERO, ..settings.timeouts };
        let may_speak_h2 = match url.scheme {
            OriginScheme::Http => false,
            OriginScheme::H2c => true,
            OriginScheme::Https => settings.protocol != Protocol::Http1,
        };
        let tls = tls.configs.as_ref().filter(|_| url.scheme == OriginScheme::Https);
        Self {
            proxy_protocol: settings.proxy_protocol,
            timeouts,
            max_idle: settings.max_idle,
            max_connections: settings.max_connections,
            h2: may_speak_h2.then_some(settings.h2),
            tls: tls.map(|configs| Tls {
                protocol: settings.protocol,
                server_name: settings.tls.server_name.clone(),
                trust: configs.trust,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn basis(url: &str, change: impl FnOnce(&mut UpstreamSettings)) -> Basis {
        let url: OriginUrl = url.parse().unwrap();
        let origin = super::super::OriginSettings::new(url.clone());
        let mut settings = UpstreamSettings::new("test", vec![origin]);
        settings.tls.verify = false;
        change(&mut settings);
        Basis::of(&url, &settings, &ClientTls::new(&settings).unwrap())
    }

    #[test]
    fn what_connections_depend_on_tells_and_nothing_else() {
        let http = "http://127.0.0.1:1";
        let as_it_was = basis(http, |_| {});
        type Change = fn(&mut UpstreamSettings);
        let other: [Change; 5] = [
            |s| s.timeouts.connect = Duration::from_secs(9),
            |s| s.timeouts.pool_idle = Duration::from_secs(9),
            |s| s.max_idle = 1,
            |s| s.max_connections = Some(1),
            |s| s.proxy_protocol = Some(proxy_protocol::Version::V2),
        ];
        for (index, change) in other.into_iter().enumerate() {
            assert_ne!(basis(http, change), as_it_was, "{index}");
        }
        let same: [Change; 9] = [
            |s| s.warm = 3,
            |s| s.max_attempts = 9,
            |s| s.timeouts.idle_tunnel = Duration::from_secs(9),
            |s| s.passive.max_failures = 9,
            |s| s.origins[0].weight = 9,
            |s| s.health = Some(super::super::HealthCheck::new(super::super::Probe::Tcp)),
            // Nothing of it is spoken with this origin.
            |s| s.h2.stream_window = 1 << 20,
            |s| s.protocol = Protocol::Http2,
            |s| s.tls.server_name = Some("a.test".into()),
        ];
        for (index, change) in same.into_iter().enumerate() {
            assert_eq!(basis(http, change), as_it_was, "{index}");
        }
    }

    #[test]
    fn with_https_all_that_is_agreed_in_a_handshake_tells() {
        let https = "https://127.0.0.1:1";
        let as_it_was = basis(https, |_| {});
        assert_eq!(basis(https, |_| {}), as_it_was);
        assert_ne!(basis(https, |s| s.h2.stream_window = 1 << 20), as_it_was);
        assert_ne!(basis(https, |s| s.protocol = Protocol::Http1), as_it_was);
        assert_ne!(basis(https, |s| s.tls.server_name = Some("a.test".into())), as_it_was);
        let http1 =
            |window| basis(https, |s| (s.protocol, s.h2.stream_window) = (Protocol::Http1, window));
        assert_eq!(http1(1 << 20), http1(1 << 21));
    }

    #[test]
    fn a_bundle_is_told_by_what_stands_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let write = |names: &[&str]| {
            let pem = |name: &&str| {
                rcgen::generate_simple_self_signed(vec![(*name).into()]).unwrap().cert.pem()
            };
            std::fs::write(&path, names.iter().map(pem).collect::<String>()).unwrap();
        };
        let trusting = || {
            basis("https://127.0.0.1:1", |s| (s.tls.verify, s.tls.ca) = (true, Some(path.clone())))
        };
        write(&["a.test"]);
        let first = trusting();
        assert_eq!(trusting(), first);
        write(&["b.test"]);
        assert_ne!(trusting(), first);
    }
}
