//! Tollgate.

use std::fmt::Write as _;

use super::{Features, Told};

impl Told<'_> {
    /// Its configuration.
    pub(super) fn tollgate(&self) -> String {
        let Self { plain, tls, .. } = self;
        let workers = self.setup.workers;
        let (certificate, key) = (self.certificate("cert.pem"), self.certificate("key.pem"));
        let log = match self.setup.features {
            Features::Bare | Features::Cached => "off".to_owned(),
            Features::Full => self.file("access.log"),
        };
        let mut text = format!(
            "[server]\nworkers = {workers}\nmax_connections_per_client = 100000\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [log]\nlevel = \"warn\"\n\
             [access_log]\noutput = \"{log}\"\n\
             [[listener]]\nname = \"plain\"\naddress = \"{plain}\"\nbacklog = 4096\n\
             [[listener]]\nname = \"tls\"\naddress = \"{tls}\"\nbacklog = 4096\n\
             [listener.tls]\n\
             certificates = [{{ certificate = \"{certificate}\", key = \"{key}\" }}]\n"
        );
        for (number, origins) in self.upstreams().iter().enumerate() {
            let origins: Vec<_> = origins.iter().map(|origin| format!("http://{origin}")).collect();
            let _ = writeln!(
                text,
                "[[upstream]]\nname = \"origin-{number}\"\norigins = {origins:?}\nmax_idle = 256"
            );
        }
        for (number, (prefix, upstream)) in self.routes().iter().enumerate() {
            let _ = writeln!(
                text,
                "[[route]]\nname = \"route-{number}\"\npath = \"{prefix}\"\n\
                 upstream = \"origin-{upstream}\""
            );
        }
        if self.setup.features == Features::Cached {
            text.push_str("[route.cache]\n");
        }
        if self.setup.features == Features::Full {
            let _ = writeln!(
                text,
                "[route.rate_limit]\nrate = 1000000\n\
                 [route.api_key]\nkeys = [{{ name = \"bench\", key = \"file:{}\" }}]\n\
                 [route.headers.request]\nset = {{ x-gateway = \"bench\" }}\n\
                 [route.headers.response]\nset = {{ x-frame-options = \"DENY\" }}",
                self.certificate("key"),
            );
        }
        text
    }
}
