//! The configurations of the proof: each has a number, and what may be answered
//! follows from the numbers that can be in force.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::origins::Sum;
use super::world::Ports;

/// Whose turn it is among the origins of `/moving`, by the configuration's number.
const MOVING: [&[usize]; 8] = [&[0, 1], &[0], &[0, 2], &[2, 3], &[3], &[1, 3], &[3, 2, 1], &[1]];

/// The origins' names, in their order.
pub const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Which configurations may answer: from the last that is known to be in force to
/// the newest that may have come into force.
#[derive(Default)]
pub struct InForce {
    known: AtomicUsize,
    possible: AtomicUsize,
}

impl InForce {
    /// This one may come into force from now on.
    pub fn offer(&self, number: usize) {
        self.possible.store(number, Ordering::SeqCst);
    }

    /// This one is in force: whatever begins now is answered by it.
    pub fn settle(&self, number: usize) {
        self.known.store(number, Ordering::SeqCst);
    }

    pub fn known(&self) -> usize {
        self.known.load(Ordering::SeqCst)
    }

    /// What may answer a request that was begun when `known` was.
    pub fn since(&self, known: usize) -> RangeInclusive<usize> {
        known..=self.possible.load(Ordering::SeqCst)
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// A route and an upstream that only change their weights.
    Stable,
    /// An upstream whose origins come and go.
    Moving,
    /// A route whose upstream is another one each time.
    Turning,
    /// A route that comes and goes.
    Coming,
    /// A fixed answer: the configuration's number.
    Which,
}

impl Target {
    pub fn path(self) -> &'static str {
        match self {
            Self::Stable => "/stable/echo",
            Self::Moving => "/moving/echo",
            Self::Turning => "/turning/echo",
            Self::Coming => "/coming/echo",
            Self::Which => "/which",
        }
    }

    /// Whether it takes a body wherever it goes.
    pub fn takes_body(self) -> bool {
        !matches!(self, Self::Coming | Self::Which)
    }

    /// The origins that a configuration may send it to; none if it has no route.
    fn origins(self, number: usize) -> &'static [usize] {
        match self {
            Self::Stable => &[0, 1],
            Self::Moving => MOVING[number % MOVING.len()],
            Self::Turning => std::slice::from_ref(&[0, 1, 2, 3][number % 4]),
            Self::Coming if !number.is_multiple_of(3) => &[2],
            Self::Coming | Self::Which => &[],
        }
    }

    /// Whether some configuration could answer like this.
    ///
    /// # Errors
    ///
    /// What is wrong with the answer.
    pub fn judge(
        self,
        may: RangeInclusive<usize>,
        asked: &Asked,
        status: u16,
        body: &[u8],
    ) -> Result<(), String> {
        let text = String::from_utf8_lossy(body);
        let short = text.chars().take(200).collect::<String>();
        let wrong = |why: &str| Err(format!("{why} under {may:?}: {status} {short:?}"));
        if self == Self::Which {
            let number = text.strip_prefix("configuration ").map(|text| text.trim().parse());
            return match number {
                Some(Ok(number)) if status == 200 && may.contains(&number) => Ok(()),
                _ => wrong("not the configuration"),
            };
        }
        if status == 404 && may.clone().any(|number| self.origins(number).is_empty()) {
            return Ok(());
        }
        if status != 200 {
            return wrong("not answered");
        }
        let (first, rest) = text.split_once('\n').unwrap_or_default();
        let expected = format!("{} {} {}", asked.id, asked.method, asked.sum);
        let Some((name, said)) = first.split_once(' ') else { return wrong("no origin's answer") };
        let mut origins = may.clone().flat_map(|number| self.origins(number));
        if !origins.any(|origin| NAMES[*origin] == name) {
            return wrong("an origin that is none of it");
        }
        if said != expected || rest.len() != asked.size {
            return wrong("not what was asked");
        }
        Ok(())
    }
}

/// What an answer has to fit.
pub struct Asked {
    pub id: String,
    pub method: &'static str,
    pub sum: Sum,
    pub size: usize,
}

/// What configurations are made of.
pub struct Recipe {
    pub ports: Ports,
    pub origins: [std::net::SocketAddr; 4],
    /// The certificate's files.
    pub certificate: &'static str,
    pub key: &'static str,
}

/// What is wrong with a configuration that cannot be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Broken {
    Syntax,
    UnknownKey,
    NoCertificate,
    PortInUse,
}

impl Broken {
    pub fn number(number: usize) -> Self {
        [Self::Syntax, Self::UnknownKey, Self::NoCertificate, Self::PortInUse][number % 4]
    }
}

impl Recipe {
    /// Whether a configuration has one listener more.
    pub fn has_extra(&self, number: usize) -> bool {
        number % 5 == 3
    }

    /// The configuration after this number, with something wrong with it, and what
    /// the report says then.
    pub fn broken(&self, broken: Broken, number: usize) -> (String, String) {
        let toml = self.toml(number + 1);
        match broken {
            Broken::Syntax => (format!("{toml}\n[[route]\n"), "config.toml:".to_owned()),
            Broken::UnknownKey => {
                (toml.replace("drain_timeout", "drain_timeuot"), "drain_timeuot".to_owned())
            }
            Broken::NoCertificate => {
                (toml.replace("\"a.crt\"", "\"none.crt\""), "none.crt".to_owned())
            }
            Broken::PortInUse => {
                let port = self.origins[0].port();
                let listener =
                    format!("[[listener]]\nname = \"taken\"\naddress = \"127.0.0.1:{port}\"\n");
                (format!("{toml}{listener}"), format!("127.0.0.1:{port}"))
            }
        }
    }

    /// The configuration with this number.
    pub fn toml(&self, number: usize) -> String {
        let Ports { plain, tls, admin, extra } = self.ports;
        let Self { certificate, key, .. } = self;
        let mut toml = format!(
            "[server]\nworkers = 2\ndrain_timeout = \"60s\"\n\
             [dns]\nfamily = \"ipv4\"\nallow = [\"127.0.0.0/8\"]\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [access_log]\noutput = \"access.log\"\n\
             [[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:{plain}\"\n\
             [[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{tls}\"\n\
             [listener.tls]\n\
             certificates = [{{ certificate = \"{certificate}\", key = \"{key}\" }}]\n\
             [[route]]\nname = \"which\"\npath_exact = \"/which\"\n\
             respond = {{ status = 200, body = \"configuration {number}\\n\" }}\n"
        );
        let weights = [1 + number % 3, 1 + number % 2, 1, 2];
        self.upstream(&mut toml, "stable", &[0, 1], weights);
        self.upstream(&mut toml, "moving", Target::Moving.origins(number), weights);
        let turning = Target::Turning.origins(number);
        let turn = format!("turn-{}", NAMES[turning[0]]);
        self.upstream(&mut toml, &turn, turning, weights);
        if self.has_extra(number) {
            let _infallible =
                write!(toml, "[[listener]]\nname = \"extra\"\naddress = \"127.0.0.1:{extra}\"\n");
        }
        route(&mut toml, "stable", "stable");
        route(&mut toml, "moving", "moving");
        route(&mut toml, "turning", &turn);
        let coming = Target::Coming.origins(number);
        if !coming.is_empty() {
            self.upstream(&mut toml, "coming", coming, weights);
            route(&mut toml, "coming", "coming");
        }
        toml
    }

    fn upstream(&self, toml: &mut String, name: &str, origins: &[usize], weights: [usize; 4]) {
        let list: Vec<String> = origins
            .iter()
            .map(|origin| {
                let (url, weight) = (self.url(name, *origin), weights[*origin]);
                format!("{{ url = \"{url}\", weight = {weight} }}")
            })
            .collect();
        let _infallible = write!(
            toml,
            "[[upstream]]\nname = \"{name}\"\norigins = [{}]\n\
             [upstream.health]\ntype = \"http\"\npath = \"/healthz\"\ninterval = \"500ms\"\n\
             [upstream.timeouts]\npool_idle = \"1s\"\n",
            list.join(", ")
        );
    }

    /// Origins of all sorts: by name, and over HTTP/2.
    fn url(&self, upstream: &str, origin: usize) -> String {
        let address = self.origins[origin];
        match upstream {
            "coming" => format!("http://localhost:{}", address.port()),
            "turn-b" | "turn-d" => format!("h2c://{address}"),
            _ => format!("http://{address}"),
        }
    }
}

fn route(toml: &mut String, name: &str, upstream: &str) {
    let _infallible = write!(
        toml,
        "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{upstream}\"\n\
         max_request_body = \"unlimited\"\n"
    );
}
