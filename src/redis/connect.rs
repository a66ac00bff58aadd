//! One connection: TCP, TLS where the URL has it, and authentication.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, Value};
use parking_lot::RwLock;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::answers::Answers;
use super::{RedisAt, RedisPassword, RedisSettings, RedisUrl};
use crate::roots::RootsError;

/// Settings that no connection can be made by.
#[derive(Debug, thiserror::Error)]
pub enum RedisSetupError {
    /// The `ca` bundle cannot be used.
    #[error("redis: cannot trust the certificates in {}: {reason}", path.display())]
    Ca {
        /// The bundle.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no trusted certificates.
    #[error(
        "redis: no trusted certificates were found on this system; install `ca-certificates` \
         or name a bundle with `ca`"
    )]
    NoSystemRoots,
    /// The host cannot stand in a certificate.
    #[error("redis: `{0}` is no name that a certificate can be for")]
    Name(String),
    /// The library refused the settings.
    #[error("redis: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Why Redis did not do as it was told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisError {
    /// There is no connection to it.
    #[error("Redis cannot be reached")]
    Unreachable,
    /// It has not answered in time. It may have done it all the same.
    #[error("Redis did not answer within {0:?}")]
    TimedOut(Duration),
    /// It answered with an error.
    #[error("Redis refused: {0}")]
    Refused(String),
    /// It does not know a script by this name.
    #[error("Redis does not know the script")]
    NoScript,
    /// It answered at more length than there is room for.
    #[error("Redis answered at more length than {0} bytes")]
    TooLong(u64),
    /// The connection failed. It may have done it all the same.
    #[error("the connection to Redis failed: {0}")]
    Broken(String),
}

impl RedisError {
    pub(super) fn of(error: &::redis::RedisError, timeout: Duration) -> Self {
        if error.is_timeout() {
            return Self::TimedOut(timeout);
        }
        match error.code() {
            // It is no longer the one that is written to, and will not be by itself: its
            // name may lead to another by now.
            None | Some("READONLY" | "MASTERDOWN") => Self::Broken(error.to_string()),
            Some("NOSCRIPT") => Self::NoScript,
            // Before Redis 7 the error of a script is all that is said of its commands'.
            Some("ERR") if error.detail().is_some_and(|detail| detail.contains("-READONLY")) => {
                Self::Broken(error.to_string())
            }
            Some(_) => Self::Refused(error.to_string()),
        }
    }

    /// Whether it was Redis that answered, if not as hoped.
    pub(super) fn is_an_answer(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::NoScript)
    }
}

/// Makes connections.
pub(super) struct Connector {
    settings: RedisSettings,
    tls: Option<TlsConnector>,
    /// Who is asked, by those who have the data, and by sentinels.
    logins: RwLock<(Login, Login)>,
}

/// What a connection shows.
#[derive(Clone, Default)]
struct Login {
    username: Option<String>,
    password: Option<RedisPassword>,
}

/// Whose connection it is to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Peer {
    /// One who has the data.
    Data,
    Sentinel,
}

/// A connection whose answers come one at a time, for commands that block.
#[derive(Debug)]
pub struct Dedicated {
    connection: MultiplexedConnection,
    _driver: AbortOnDropHandle<()>,
    /// An answer was longer than `limit`.
    too_long: Arc<AtomicBool>,
    limit: u64,
}

/// No answer that comes in is to be longer than a limit.
struct Limited<S> {
    inner: S,
    answers: Answers,
    too_long: Arc<AtomicBool>,
    limit: u64,
}

impl Login {
    fn of(settings: &RedisSettings) -> (Self, Self) {
        let RedisSettings { at, username, password, .. } = settings;
        let data = Self { username: username.clone(), password: password.clone() };
        let sentinel = match at {
            RedisAt::Sentinel(sentinel) => {
                let (username, password) = (sentinel.username.clone(), sentinel.password.clone());
                Self { username, password }
            }
            RedisAt::Url(_) | RedisAt::Cluster(_) => Self::default(),
        };
        (data, sentinel)
    }
}

impl Connector {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, RedisSetupError> {
        let tls = if settings.at.is_tls() { Some(tls(settings)?) } else { None };
        let logins = RwLock::new(Login::of(settings));
        Ok(Self { settings: settings.clone(), tls, logins })
    }

    pub(super) fn settings(&self) -> &RedisSettings {
        &self.settings
    }

    /// From the next connection on it is as these settings say that Redis is asked.
    pub(super) fn log_in_as(&self, settings: &RedisSettings) {
        *self.logins.write() = Login::of(settings);
    }

    /// A connection of which no answer is longer than `limit` bytes.
    pub(super) async fn open(
        &self,
        to: &RedisUrl,
        peer: Peer,
        limit: u64,
    ) -> Result<Dedicated, RedisError> {
        let timeout = self.settings.connect_timeout;
        match tokio::time::timeout(timeout, self.connect(to, peer, limit)).await {
            Ok(connected) => connected,
            Err(_) => Err(RedisError::TimedOut(timeout)),
        }
    }

    async fn connect(
        &self,
        to: &RedisUrl,
        peer: Peer,
        limit: u64,
    ) -> Result<Dedicated, RedisError> {
        let broken = |error: io::Error| RedisError::Broken(error.to_string());
        let (host, port) = (to.host.as_str(), to.port);
        let stream = TcpStream::connect((host, port)).await.map_err(broken)?;
        // A command is one write: there is nothing to wait for.
        stream.set_nodelay(true).map_err(broken)?;
        let info = self.info(to, peer);
        match &self.tls {
            None => self.greet(stream, &info, limit).await,
            Some(tls) => {
                let name = self.settings.server_name.as_deref().unwrap_or(host);
                let name =
                    server_name(name).map_err(|error| RedisError::Broken(error.to_string()))?;
                let stream = tls.connect(name, stream).await.map_err(broken)?;
                self.greet(stream, &info, limit).await
            }
        }
    }

    fn info(&self, to: &RedisUrl, peer: Peer) -> RedisConnectionInfo {
        let mut info =
            RedisConnectionInfo::default().set_db(to.database.into()).set_skip_set_lib_name();
        let logins = self.logins.read();
        let Login { username, password } = match peer {
            Peer::Data => &logins.0,
            Peer::Sentinel => &logins.1,
        };
        if let Some(username) = username {
            info = info.set_username(username);
        }
        if let Some(password) = password {
            info = info.set_password(password.reveal());
        }
        info
    }

    async fn greet<S>(
        &self,
        inner: S,
        info: &RedisConnectionInfo,
        limit: u64,
    ) -> Result<Dedicated, RedisError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let too_long = Arc::new(AtomicBool::new(false));
        let answers = Answers::default();
        let stream = Limited { inner, answers, too_long: too_long.clone(), limit };
        let timeout = self.settings.timeout;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(timeout));
        let (connection, driver) = MultiplexedConnection::new_with_config(info, stream, config)
            .await
            .map_err(|error| RedisError::of(&error, timeout))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Dedicated { connection, _driver: driver, too_long, limit })
    }
}

impl Dedicated {
    /// Has a command carried out.
    ///
    /// # Errors
    ///
    /// See [`RedisError`]. After any but [`RedisError::Refused`] the connection is of no
    /// more use.
    pub async fn ask(&mut self, command: &Cmd, timeout: Duration) -> Result<Value, RedisError> {
        self.connection.set_response_timeout(timeout);
        command.query_async(&mut self.connection).await.map_err(|error| {
            if self.too_long.load(Ordering::Relaxed) {
                return RedisError::TooLong(self.limit);
            }
            RedisError::of(&error, timeout)
        })
    }

    /// The connection, for many at once, and what it ends with.
    pub(super) fn shared(self) -> (MultiplexedConnection, AbortOnDropHandle<()>) {
        (self.connection, self._driver)
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, RedisSetupError> {
    ServerName::try_from(name.to_owned()).map_err(|_| RedisSetupError::Name(name.to_owned()))
}

fn tls(settings: &RedisSettings) -> Result<TlsConnector, RedisSetupError> {
    // Said at once, if no certificate can be for it.
    match &settings.server_name {
        Some(name) => drop(server_name(name)?),
        None => {
            for url in settings.at.urls() {
                server_name(&url.host)?;
            }
        }
    }
    let roots = crate::roots::trusted(settings.ca.as_deref()).map_err(|error| match error {
        RootsError::Bundle { path, reason } => RedisSetupError::Ca { path, reason },
        RootsError::NoneOnSystem => RedisSetupError::NoSystemRoots,
    })?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        if !this.answers.are_within(this.limit, &buffer.filled()[before..]) {
            this.too_long.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::other("the answer is too long")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
