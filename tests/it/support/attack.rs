//! A proxy in front of an origin that records every byte, and what becomes of
//! bytes that a client should not send.

use std::fmt;

use super::client::{Answer, Raw};
use super::origin::Origin;
use super::proxy::{Running, Setup};

/// What is sent after an attack, on its connection if that still stands.
const AFTER: &str = "GET /after HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// What is sent last, on a connection of its own.
const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// The line that Tollgate adds to what it forwards.
pub const VIA: &str = "via: 1.1 us\r\n";

/// Ends a route whose origin sees none of the fields that Tollgate adds, but `Via`.
pub const BARE: &str = "[route.headers.request]\nremove = [\"X-Request-Id\", \"Forwarded\", \
                        \"X-Real-IP\", \"X-Forwarded-For\", \"X-Forwarded-Host\", \
                        \"X-Forwarded-Proto\"]\n";

/// A proxy to attack.
pub struct Target {
    pub proxy: Running,
    pub origin: Origin,
}

/// What came of an attack.
#[derive(Debug)]
pub struct Outcome {
    /// How it was answered.
    pub answers: Vec<Answer>,
    /// Whether the connection was closed for it.
    pub closed: bool,
    /// Every byte that the origin received for it; our name in `Via` is `us`.
    pub origin_saw: String,
    /// The requests that came whole to the origin.
    pub whole: usize,
}

/// What should come of an attack.
pub enum Expect<'e> {
    /// One of these statuses, the end of the connection, and no byte for the origin.
    Refused(&'e [u16]),
    /// The same, but the connection goes on.
    Declined(u16),
    /// One of these statuses and the end of the connection; the origin may have
    /// seen the start of a message, but never one that looks whole.
    BrokenOff(&'e [u16]),
    /// 200 for exactly this at the origin, and the connection goes on.
    Forwarded(&'e str),
}

/// An attack, and what should come of it.
pub struct Case<'e> {
    name: String,
    bytes: Vec<u8>,
    expect: Expect<'e>,
}

/// A case that is known by this name.
pub fn case<'e>(name: impl Into<String>, bytes: impl AsRef<[u8]>, expect: Expect<'e>) -> Case<'e> {
    Case { name: name.into(), bytes: bytes.as_ref().to_vec(), expect }
}

impl Target {
    /// Forwards everything to an origin that answers with the target it was
    /// asked for. Of the fields that Tollgate adds only `Via` is left.
    pub async fn new() -> Self {
        Self::with("", "").await
    }

    /// The same, with more lines for the listener, and for the route.
    pub async fn with(listener: &str, route: &str) -> Self {
        let origin = echoing().await;
        let setup = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n{route}\n\
             {BARE}"
        ));
        Self { proxy: setup.listener(listener).start(), origin }
    }

    /// Sends these bytes as a client that waits for nothing.
    pub async fn attack(&self, bytes: impl AsRef<[u8]>) -> Outcome {
        let (bytes_before, whole_before) = (self.origin.bytes().len(), self.whole());
        let mut client = Raw::connect(self.proxy.address).await;
        client.try_send(bytes).await;
        let mut answers = Vec::new();
        let mut asked = false;
        let closed = loop {
            if !client.read_to_end_or("\r\n\r\n").await {
                break true;
            }
            let answer = client.answer().await;
            if answer.text() == "/after" {
                break false;
            }
            let closes = answer.field("connection") == Some("close");
            answers.push(answer);
            // Asked for once, behind whatever was sent before.
            if !closes && !asked {
                asked = true;
                client.try_send(AFTER).await;
            }
        };
        let mut fresh = Raw::connect(self.proxy.address).await;
        fresh.send(GOOD).await;
        assert_eq!(fresh.answer().await.text(), "/good", "a good request after {answers:?}");
        let saw = self.origin.bytes();
        let saw = without_pseudonym(&String::from_utf8_lossy(&saw[bytes_before..]));
        let forwarded = |path| format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{VIA}\r\n");
        // What comes over several connections may be noted in any order.
        let mut saw = saw.replacen(&forwarded("/good"), "", 1);
        if !closed {
            saw = saw.replacen(&forwarded("/after"), "", 1);
        }
        let whole = self.whole() - whole_before - 1 - usize::from(!closed);
        Outcome { answers, closed, origin_saw: saw, whole }
    }

    fn whole(&self) -> usize {
        self.origin.requests().len()
    }

    /// Carries each case out; says of all that fail how.
    pub async fn check(&self, cases: impl IntoIterator<Item = Case<'_>>) {
        let (mut failed, mut count) = (Vec::new(), 0);
        for Case { name, bytes, expect } in cases {
            count += 1;
            let outcome = self.attack(&bytes).await;
            if let Err(why) = outcome.fits(&expect) {
                let sent = &bytes[..bytes.len().min(200)];
                failed.push(format!("{name}: {why}\n  sent {}\n  {outcome}", sent.escape_ascii()));
            }
        }
        assert!(
            count > 0 && failed.is_empty(),
            "{} of {count}:\n{}",
            failed.len(),
            failed.join("\n")
        );
    }
}

impl Outcome {
    pub fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(|answer| answer.status).collect()
    }

    fn fits(&self, expect: &Expect<'_>) -> Result<(), String> {
        let said = self.statuses();
        let one_of = |statuses: &[u16]| match said[..] {
            [status] if statuses.contains(&status) => Ok(()),
            _ => Err(format!("expected one of {statuses:?}")),
        };
        let closed = |closed| match self.closed == closed {
            true => Ok(()),
            false => Err(format!("expected closed: {closed}")),
        };
        let saw = |bytes: &str| match self.origin_saw == bytes {
            true => Ok(()),
            false => Err(format!("expected the origin to see {bytes:?}")),
        };
        match expect {
            Expect::Refused(statuses) => one_of(statuses).and(closed(true)).and(saw("")),
            Expect::Declined(status) => one_of(&[*status]).and(closed(false)).and(saw("")),
            Expect::Forwarded(bytes) => one_of(&[200]).and(closed(false)).and(saw(bytes)),
            Expect::BrokenOff(statuses) => {
                let none_whole = match self.whole {
                    0 => Ok(()),
                    whole => Err(format!("{whole} requests came whole to the origin")),
                };
                one_of(statuses).and(closed(true)).and(none_whole)
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { closed, origin_saw, .. } = self;
        write!(f, "got {:?}, closed: {closed}, the origin saw {origin_saw:?}", self.statuses())
    }
}

/// Answers every request with the target it asks for.
pub async fn echoing() -> Origin {
    Origin::scripted(|mut connection| async move {
        while let Some(request) = connection.request().await {
            let mut words = request.split(' ');
            let head = words.next() == Some("HEAD");
            let target = words.next().unwrap_or_default();
            let body = if head { "" } else { target };
            let length = target.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            connection.write(answer).await;
        }
    })
    .await
}

/// The name of a process in `Via` is made up when it starts.
fn without_pseudonym(text: &str) -> String {
    let mut parts = text.split("tollgate-");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("us");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    out
}
