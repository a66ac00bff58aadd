//! Signs of life that the service manager waits for.

use std::env;
use std::time::Duration;

/// How often the manager is to be given a sign of life: in half the time after which
/// it takes the service for dead. None if it does not wait for any, or not for those
/// of this process.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let variable = |name| env::var(name).ok();
    interval(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id())
}

fn interval(micros: Option<String>, whose: Option<String>, pid: u32) -> Option<Duration> {
    let ours = whose.is_none_or(|whose| whose.parse() == Ok(pid));
    let limit = micros?.parse().ok().filter(|limit| *limit > 0)?;
    ours.then(|| Duration::from_micros(limit) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_given_in_half_the_time() {
        let interval = |micros: &str, whose: Option<&str>| {
            interval(Some(micros.to_owned()), whose.map(str::to_owned), 5)
        };
        assert_eq!(interval("30000000", Some("5")), Some(Duration::from_secs(15)));
        // So it is for a successor, whose pid nobody knew.
        assert_eq!(interval("30000000", None), Some(Duration::from_secs(15)));
        assert_eq!(interval("30000000", Some("6")), None);
        assert_eq!(interval("0", None), None);
        assert_eq!(interval("soon", None), None);
        assert_eq!(super::interval(None, None, 5), None);
    }
}
