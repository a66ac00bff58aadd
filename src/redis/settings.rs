//! Where Redis is, and what it is shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use zeroize::Zeroizing;

/// The port of a URL that names none.
const PORT: u16 = 6379;

/// How Redis, or Valkey, is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisSettings {
    /// Where it is.
    pub at: RedisAt,
    /// Whom it is asked as (ACL); `None` is its default user.
    pub username: Option<String>,
    /// What it is shown.
    pub password: Option<RedisPassword>,
    /// Whose certificates are believed over TLS; `None`: those that the system believes.
    pub ca: Option<PathBuf>,
    /// The name that the certificates over TLS have to be for. `None`: that of each host.
    /// Nodes of a cluster, and masters that sentinels name, go by addresses unless they
    /// are told to announce names.
    pub server_name: Option<String>,
    /// How long a connection may take, with TLS and authentication. Default 2 s.
    pub connect_timeout: Duration,
    /// How long an answer may take. Default 1 s.
    pub timeout: Duration,
}

/// Where Redis is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RedisAt {
    /// Here.
    Url(RedisUrl),
    /// Where sentinels say that the master is.
    Sentinel(SentinelSettings),
    /// On several masters, each of which has some of the keys. Any of these nodes, one after
    /// the other, says which. At least one; all with TLS or all without, and no database.
    Cluster(Vec<RedisUrl>),
}

/// Sentinels, which know who the master is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SentinelSettings {
    /// Where they are: at least one; all with TLS or all without, and the master like them.
    pub urls: Vec<RedisUrl>,
    /// What the master is called among them.
    pub master: String,
    /// The database of the master. Default 0.
    pub database: u32,
    /// Whom the sentinels are asked as; `None` is their default user.
    pub username: Option<String>,
    /// What the sentinels are shown.
    pub password: Option<RedisPassword>,
}

/// `redis://host:port/database`, or `rediss://` with TLS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedisUrl {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// A name, or an address; an IPv6 address without brackets.
    pub host: String,
    /// Default 6379.
    pub port: u16,
    /// Default 0.
    pub database: u32,
}

/// A password, which is never shown.
#[derive(Clone)]
pub struct RedisPassword(Arc<Zeroizing<String>>);

/// Why a text is no URL of a Redis.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RedisUrlError {
    /// It is of another form.
    #[error("expected a URL such as \"redis://10.0.0.5:6379\", or \"rediss://\" for TLS")]
    Form,
    /// A name or password stands in it.
    #[error("whom Redis is asked as, and the password, have keys of their own")]
    Userinfo,
    /// What stands behind the `/` is no number.
    #[error("the number of a database is expected behind the `/`")]
    Database,
}

impl RedisSettings {
    /// Every default.
    #[must_use]
    pub fn new(url: RedisUrl) -> Self {
        Self::at(RedisAt::Url(url))
    }

    /// Every default, but for where it is.
    #[must_use]
    pub fn at(at: RedisAt) -> Self {
        Self {
            at,
            username: None,
            password: None,
            ca: None,
            server_name: None,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
        }
    }

    /// These, but for as whom is asked: that is as the others say, where they are of the
    /// same kind.
    #[must_use]
    pub fn asking_as(&self, others: &Self) -> Self {
        let mut settings = self.clone();
        (settings.username, settings.password) = (others.username.clone(), others.password.clone());
        if let (RedisAt::Sentinel(sentinel), RedisAt::Sentinel(other)) =
            (&mut settings.at, &others.at)
        {
            (sentinel.username, sentinel.password) =
                (other.username.clone(), other.password.clone());
        }
        settings
    }
}

impl RedisAt {
    /// The nodes that are named.
    #[must_use]
    pub fn urls(&self) -> &[RedisUrl] {
        match self {
            Self::Url(url) => std::slice::from_ref(url),
            Self::Sentinel(SentinelSettings { urls, .. }) | Self::Cluster(urls) => urls,
        }
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.urls().first().is_some_and(|url| url.tls)
    }
}

impl fmt::Display for RedisAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<String> = self.urls().iter().map(ToString::to_string).collect();
        let urls = urls.join(", ");
        match self {
            Self::Url(_) => f.write_str(&urls),
            Self::Sentinel(SentinelSettings { master, database, .. }) => {
                write!(f, "{master}/{database} of the sentinels {urls}")
            }
            Self::Cluster(_) => write!(f, "the cluster {urls}"),
        }
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let url: Uri = text.parse().map_err(|_| RedisUrlError::Form)?;
        let tls = match url.scheme_str() {
            Some("redis" | "valkey") => false,
            Some("rediss" | "valkeys") => true,
            _ => return Err(RedisUrlError::Form),
        };
        let authority = url.authority().ok_or(RedisUrlError::Form)?;
        if authority.as_str().contains('@') {
            return Err(RedisUrlError::Userinfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => PORT,
            _ => authority.port_u16().filter(|port| *port > 0).ok_or(RedisUrlError::Form)?,
        };
        if host.is_empty() || url.query().is_some() {
            return Err(RedisUrlError::Form);
        }
        let database = match url.path().trim_start_matches('/') {
            "" => 0,
            number => number.parse().map_err(|_| RedisUrlError::Database)?,
        };
        Ok(Self { tls, host, port, database })
    }
}

impl RedisUrl {
    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}", self.address())?;
        if self.database > 0 { write!(f, "/{}", self.database) } else { Ok(()) }
    }
}

impl RedisPassword {
    /// This one.
    #[must_use]
    pub fn new(password: String) -> Self {
        Self(Arc::new(Zeroizing::new(password)))
    }

    /// The password itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Eq for RedisPassword {}

impl PartialEq for RedisPassword {
    fn eq(&self, other: &Self) -> bool {
        self.reveal() == other.reveal()
    }
}

impl fmt::Debug for RedisPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisPassword(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_told_alike() {
        for (text, told) in [
            ("redis://a.test", "redis://a.test:6379"),
            ("rediss://a.test:6380/3", "rediss://a.test:6380/3"),
            ("valkey://[::1]:7000/", "redis://[::1]:7000"),
            ("redis://10.0.0.5:1/0", "redis://10.0.0.5:1"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), told);
            assert_eq!(told.parse(), Ok(url));
        }
        let wrong = |text: &str| text.parse::<RedisUrl>().unwrap_err();
        for text in ["", "a.test", "a.test:6379", "http://a.test", "redis://a:0", "redis://a:x"] {
            assert_eq!(wrong(text), RedisUrlError::Form, "{text}");
        }
        assert_eq!(wrong("redis://a.test:"), RedisUrlError::Form);
        assert_eq!(wrong("redis://:hunter2@a.test"), RedisUrlError::Userinfo);
        assert_eq!(wrong("redis://a.test/x"), RedisUrlError::Database);
    }

    #[test]
    fn a_password_is_not_shown() {
        let mut settings = RedisSettings::new("redis://a".parse().unwrap());
        settings.password = Some(RedisPassword::new("hunter2".into()));
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
