//! From the records of an answer to what is used of them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;

use super::service::Target;
use super::settings::DnsSettings;
use super::{Answer, Fault, screen};

/// The most addresses of a name, and targets of a service, that are used.
pub(super) const MOST: usize = 256;

/// The largest weight that a target has here.
const MOST_WEIGHT: u32 = 100;

/// The addresses of a name.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// In order, each once.
    pub(super) ips: Vec<IpAddr>,
    /// Whether the name servers said nothing of IPv4 addresses.
    pub(super) without_v4: bool,
    /// The same for IPv6.
    pub(super) without_v6: bool,
    /// Those that it may not have, and why.
    pub(super) refused: Vec<(IpAddr, &'static str)>,
}

/// What came of one family.
#[derive(Debug)]
pub(super) enum Part {
    /// It is not to be used.
    Unwanted,
    /// There are addresses.
    Some {
        /// These.
        ips: Vec<IpAddr>,
        /// For so long.
        ttl: Duration,
    },
    /// There are none.
    None(Fault),
    /// Nobody knows.
    Unanswered(Fault),
}

impl Part {
    pub(super) fn of(lookup: &Lookup) -> Self {
        match ips(lookup) {
            ips if ips.is_empty() => Self::None(Fault::new("empty", "the answer is empty")),
            ips => Self::Some { ips, ttl: ttl(lookup) },
        }
    }
}

/// The addresses in an answer.
pub(super) fn ips(lookup: &Lookup) -> Vec<IpAddr> {
    lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect()
}

/// An answer holds as long as each of its records, those of a chain of aliases
/// among them.
fn ttl(lookup: &Lookup) -> Duration {
    let shortest = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    Duration::from_secs(shortest.into())
}

/// One answer out of both families'.
pub(super) fn join(
    [v4, v6]: [Part; 2],
    is_localhost: bool,
    settings: &DnsSettings,
) -> Result<Answer<Addresses>, Fault> {
    let without_v4 = matches!(v4, Part::Unanswered(_));
    let without_v6 = matches!(v6, Part::Unanswered(_));
    let mut found = Addresses { without_v4, without_v6, ..Addresses::default() };
    let (mut ttl, mut unanswered, mut none) = (settings.max_ttl, None, None);
    for part in [v4, v6] {
        match part {
            Part::Unwanted => {}
            Part::Some { ips, ttl: of_part } => {
                found.ips.extend(ips);
                ttl = ttl.min(of_part);
            }
            Part::None(fault) => none = none.or(Some(fault)),
            Part::Unanswered(fault) => unanswered = unanswered.or(Some(fault)),
        }
    }
    found.ips.retain(|ip| match screen::refused(*ip, &settings.allow) {
        Some(why) if !is_localhost => {
            found.refused.push((*ip, why));
            false
        }
        _ => true,
    });
    found.ips.sort_unstable();
    found.ips.dedup();
    found.ips.truncate(MOST);
    if found.ips.is_empty() {
        return Err(match found.refused.first() {
            Some((ip, why)) => Fault::new(
                "refused_address",
                format!("it points at {ip} ({why}), which `dns.allow` does not name"),
            ),
            None => unanswered.or(none).unwrap_or_else(|| Fault::new("empty", "no address")),
        });
    }
    if unanswered.is_some() {
        ttl = ttl.min(settings.negative_ttl);
    }
    Ok(Answer { found, ttl: within(ttl, settings) })
}

/// The targets in an answer, the lowest priority first (RFC 2782).
pub(super) fn targets(
    lookup: &Lookup,
    settings: &DnsSettings,
) -> Result<Answer<Vec<Target>>, Fault> {
    let mut targets: Vec<Target> = Vec::new();
    for record in lookup.answers() {
        let RData::SRV(srv) = &record.data else { continue };
        let host = srv.target.to_ascii().to_ascii_lowercase();
        // It goes into logs and metrics: nothing but a host's name will do.
        let fits = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if srv.target.is_root() || srv.port == 0 || !fits {
            continue;
        }
        let (priority, weight) = (srv.priority, u32::from(srv.weight));
        targets.push(Target { priority, host, port: srv.port, weight });
    }
    targets.sort_unstable();
    let mut seen = HashSet::new();
    targets.retain(|target| seen.insert((target.host.clone(), target.port)));
    targets.truncate(MOST);
    if targets.is_empty() {
        return Err(Fault::new("empty", "the service has no target"));
    }
    level(&mut targets);
    Ok(Answer { found: targets, ttl: within(ttl(lookup), settings) })
}

/// Brings weights into a range that a rotation is short with. A target without
/// weight has the smallest.
fn level(targets: &mut [Target]) {
    let most = targets.iter().map(|target| target.weight).max().unwrap_or(0);
    for target in targets {
        if most > MOST_WEIGHT {
            target.weight = (target.weight * MOST_WEIGHT).div_ceil(most);
        }
        target.weight = target.weight.max(1);
    }
}

fn within(ttl: Duration, settings: &DnsSettings) -> Duration {
    ttl.min(settings.max_ttl).max(settings.min_ttl)
}

/// What an error of the resolver's means.
pub(super) fn fault(error: &NetError) -> Fault {
    let reason = match error {
        NetError::Timeout => "timeout",
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => "servfail",
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => "refused",
        _ if error.is_nx_domain() => "nxdomain",
        _ if error.is_no_records_found() => "empty",
        _ => "failed",
    };
    let detail = match reason {
        "nxdomain" => "there is no such name".to_owned(),
        "empty" => "the answer is empty".to_owned(),
        "timeout" => "no name server answered".to_owned(),
        _ => error.to_string(),
    };
    Fault::new(reason, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(ips: &[&str], seconds: u64) -> Part {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Part::Some { ips, ttl: Duration::from_secs(seconds) }
    }

    fn none() -> Part {
        Part::None(Fault::new("empty", ""))
    }

    fn unanswered() -> Part {
        Part::Unanswered(Fault::new("timeout", ""))
    }

    fn joined(parts: [Part; 2]) -> Result<(Vec<String>, u64), &'static str> {
        let settings = DnsSettings::default();
        let answer = join(parts, false, &settings).map_err(|fault| fault.reason)?;
        let ips = answer.found.ips.iter().map(ToString::to_string).collect();
        Ok((ips, answer.ttl.as_secs()))
    }

    #[test]
    fn an_answer_is_the_sum_of_both_families() {
        let ips = |ips: &[&str]| ips.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>();
        let both = joined([some(&["192.0.2.2", "192.0.2.1"], 30), some(&["2001:db8::1"], 20)]);
        assert_eq!(both, Ok((ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]), 20)));
        assert_eq!(joined([some(&["192.0.2.1"], 0), none()]), Ok((ips(&["192.0.2.1"]), 1)));
        assert_eq!(joined([none(), none()]), Err("empty"));
        assert_eq!(joined([none(), unanswered()]), Err("timeout"));
        // Nobody knows whether it has IPv6 addresses: that is asked again soon.
        let half = joined([some(&["192.0.2.1"], 300), unanswered()]);
        assert_eq!(half, Ok((ips(&["192.0.2.1"]), 5)));
        assert_eq!(joined([some(&["192.0.2.1"], 86_400), none()]).unwrap().1, 300);
    }

    #[test]
    fn an_address_that_is_refused_is_left_out() {
        let mixed = joined([some(&["127.0.0.1", "10.0.0.1"], 9), none()]);
        assert_eq!(mixed, Ok((vec!["10.0.0.1".to_owned()], 9)));
        assert_eq!(joined([some(&["169.254.169.254"], 9), none()]), Err("refused_address"));
        let settings = DnsSettings::default();
        assert!(join([some(&["127.0.0.1"], 9), Part::Unwanted], true, &settings).is_ok());
    }

    #[test]
    fn there_is_an_end_to_how_many_addresses_are_used() {
        let many: Vec<String> =
            (0..1_000).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(joined([some(&many, 9), none()]).unwrap().0.len(), MOST);
    }

    #[test]
    fn weights_are_brought_into_range() {
        let levelled = |weights: &[u32]| {
            let target = |weight: &u32| Target {
                priority: 0,
                host: "a.".to_owned(),
                port: 80,
                weight: *weight,
            };
            let mut targets: Vec<_> = weights.iter().map(target).collect();
            level(&mut targets);
            targets.iter().map(|target| target.weight).collect::<Vec<_>>()
        };
        assert_eq!(levelled(&[0, 0]), [1, 1]);
        assert_eq!(levelled(&[0, 3, 1]), [1, 3, 1]);
        assert_eq!(levelled(&[65_535, 0, 1, 32_768]), [100, 1, 1, 51]);
    }
}
