//! `tollgate keys new`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{file, made, no_randomness};
use crate::cli::Failure;
use crate::layers::{ApiKey, KeyDigest, check_key_name, check_key_prefix, check_scope};
use crate::pace::Quota;

/// So much of a digest tells one key from another, in hexadecimal digits.
const ID: usize = 12;

#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Whose key it is. A name may have several keys.
    #[arg(long, value_parser = name)]
    name: String,
    /// How long it lets in, such as `90d`, or until when, such as `2027-01-31` (the
    /// beginning of that day, UTC) or `2027-01-31T12:00:00Z`. Default: for ever.
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<SystemTime>,
    /// What may be done with it; may be said several times.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<String>,
    /// How often whoever has it may ask, such as `100/s`, `1000/m` or `50/10s`.
    #[arg(long, value_parser = rate)]
    rate: Option<Quota>,
    /// How often at once, after a pause. Default: as often as the rate says.
    #[arg(long, requires = "rate")]
    burst: Option<NonZeroU32>,
    /// Add it to this file, which is made if there is none.
    #[arg(long, value_name = "FILE", conflicts_with = "redis")]
    file: Option<PathBuf>,
    /// Add it to the Redis of the configuration, under this prefix, such as `tollgate:keys`.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    redis: Option<String>,
    /// The configuration file that says where Redis is; default `config.toml`, else
    /// `/etc/tollgate/config.toml`.
    #[arg(short, long, requires = "redis")]
    config: Option<PathBuf>,
}

fn name(text: &str) -> Result<String, &'static str> {
    check_key_name(text).map(|()| text.to_owned())
}

fn scope(text: &str) -> Result<String, &'static str> {
    check_scope(text).map(|()| text.to_owned())
}

fn prefix(text: &str) -> Result<String, &'static str> {
    check_key_prefix(text).map(|()| text.to_owned())
}

fn expiry(text: &str) -> Result<SystemTime, &'static str> {
    if let Ok(left) = humantime::parse_duration(text) {
        if left < Duration::from_secs(1) {
            return Err("it has to let in for a second at least");
        }
        let end = Timestamp::now().as_second().checked_add_unsigned(left.as_secs());
        let end = end.and_then(|end| Timestamp::from_second(end).ok()?.try_into().ok());
        return end.ok_or("that is too far away");
    }
    let is_day = text.len() == 10;
    let whole = if is_day { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let end = whole.parse::<Timestamp>().ok().and_then(|end| end.try_into().ok());
    match end {
        Some(end) if end > SystemTime::now() => Ok(end),
        Some(_) => Err("that is over"),
        None => Err("no time such as 90d or 2027-01-31"),
    }
}

fn rate(text: &str) -> Result<Quota, &'static str> {
    const WHAT: &str = "no rate such as 100/s or 50/10s";
    let (requests, per) = text.split_once('/').ok_or(WHAT)?;
    let requests = requests.trim().parse().map_err(|_| WHAT)?;
    let per = per.trim();
    let one = if per.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "1" };
    let per = humantime::parse_duration(&format!("{one}{per}")).map_err(|_| WHAT)?;
    if per < Duration::from_millis(1) { Err(WHAT) } else { Ok(Quota::new(requests, per)) }
}

/// Makes a key, and has it stored or says what is to be stored.
pub(super) fn new(wanted: &Wanted) -> Result<(), Failure> {
    let secret = made::key().ok_or_else(no_randomness)?;
    let key = wanted.key(&secret);
    // Whoever looks it up reads it like this, and what cannot be read lets nobody in.
    ApiKey::from_record(key.digest, key.to_record().as_bytes())
        .map_err(|why| Failure::Refused(format!("such a key would let nobody in: {why}")))?;
    let id = key.id.as_deref().unwrap_or_default();
    match (&wanted.file, &wanted.redis) {
        (Some(file), _) => {
            file::add(file, &key)?;
            eprintln!(
                "added {} (id {id}) to {}; give this key to the client:",
                key.name,
                file.display()
            );
            println!("{}", *secret);
        }
        (None, Some(prefix)) => {
            store(wanted, prefix, &key)?;
            eprintln!("added {} (id {id}) to Redis; give this key to the client:", key.name);
            println!("{}", *secret);
        }
        (None, None) => print(&secret, &key),
    }
    Ok(())
}

fn print(secret: &Zeroizing<String>, key: &ApiKey) {
    println!("# give this key to the client; it is not stored anywhere:\n# {}", **secret);
    println!("{{ {} }},", file::entries(key).join(", "));
}

impl Wanted {
    fn key(&self, secret: &str) -> ApiKey {
        let digest = KeyDigest::of(secret.as_bytes());
        let quota = self.rate.map(|rate| rate.burst(self.burst.unwrap_or(rate.burst)));
        let mut key = ApiKey::new(&*self.name, digest);
        key.id = Some(digest.hex()[..ID].into());
        (key.expires, key.quota) = (self.expires, quota);
        key.scopes = self.scopes.iter().map(|scope| scope.as_str().into()).collect();
        key
    }
}

#[cfg(not(feature = "redis"))]
fn store(_: &Wanted, _: &str, _: &ApiKey) -> Result<(), Failure> {
    Err(Failure::Refused("this Tollgate was built without Redis (the feature `redis`)".to_owned()))
}

/// Puts the record of a key into Redis, unless it is there.
#[cfg(feature = "redis")]
fn store(wanted: &Wanted, prefix: &str, key: &ApiKey) -> Result<(), Failure> {
    use crate::app::SetupError;
    use crate::redis::{Redis, Value, cmd};

    let path = crate::cli::config_path(wanted.config.clone());
    let settings = crate::config::redis_of(&path).map_err(SetupError::Config)?;
    let Some(settings) = settings else {
        let why = format!("{} has no table [redis]", path.display());
        return Err(Failure::Refused(why));
    };
    let unreachable = |why: String| Failure::Unreachable(why);
    let redis = Redis::new(&settings).map_err(|error| unreachable(error.to_string()))?;
    let name = format!("{prefix}:{}", key.digest.hex());
    let mut set = cmd("SET");
    set.arg(&name).arg(key.to_record()).arg("NX");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::io("cannot ask Redis"))?;
    let answer = runtime.block_on(async {
        let mut connection = redis.dedicated_to(name.as_bytes(), 64 * 1024).await?;
        connection.ask(&set, settings.timeout).await
    });
    match answer {
        Ok(Value::Okay) => Ok(()),
        Ok(_) => Err(Failure::Refused("Redis has this key already".to_owned())),
        Err(error) => Err(unreachable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let quota = |requests, millis| {
            Quota::new(NonZeroU32::new(requests).unwrap(), Duration::from_millis(millis))
        };
        assert_eq!(rate("100/s"), Ok(quota(100, 1_000)));
        assert_eq!(rate("5 / 10s"), Ok(quota(5, 10_000)));
        assert_eq!(rate("60/m"), Ok(quota(60, 60_000)));
        for text in ["", "5", "/s", "0/s", "5/", "5/0s", "x/s", "5/x", "-1/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        let seconds = |text: &str| Timestamp::try_from(expiry(text).unwrap()).unwrap().as_second();
        let in_an_hour = Timestamp::now().as_second() + 3600;
        assert!((in_an_hour..in_an_hour + 60).contains(&seconds("1h")));
        assert_eq!(seconds("2999-01-31"), seconds("2999-01-31T01:00:00+01:00"));
        for text in [
            "",
            "soon",
            "2001-01-31",
            "2999-13-01",
            "2001-01-31T00:00:00Z",
            "99999999y",
            "0s",
            "999ms",
        ] {
            assert!(expiry(text).is_err(), "{text}");
        }
    }
}
