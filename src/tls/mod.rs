//! TLS from clients: server name, handshake, the client's certificate if it is to have
//! one, all before a deadline.
//!
//! Certificates are read again while connections come in ([`TlsAcceptor::reload`]), and
//! sessions are resumed across that ([`Tickets`]).

mod base;
mod certificates;
mod client_auth;
mod facts;
mod settings;
mod tickets;
mod watch;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

pub use certificates::CertificateChange;
pub use client_auth::{ClientAuthFile, ClientAuthHolds};
pub use facts::CertificateFacts;
pub use settings::{
    CertificateSettings, ClientAuthMode, ClientAuthSettings, TlsSettings, TlsVersion,
    UnknownRevocation,
};
pub use tickets::{TicketKeys, Tickets};
pub use watch::{keep_watch, reload, show, taken_in};

use crate::context::{ClientCertificate, Hosts, TlsFacts};
use crate::error::cause_of;
use crate::pem;
use base::Base;
use certificates::Certificates;
use client_auth::{Session, client_certificate};

/// How long a client that is turned away may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Terminates TLS on a listener's connections. Cheap to clone: all clones show the
/// same certificates, also after a reload.
#[derive(Clone)]
pub struct TlsAcceptor(Arc<Listening>);

struct Listening {
    settings: TlsSettings,
    /// What all certificates have in common.
    base: Base,
    tickets: Tickets,
    certificates: ArcSwap<Certificates>,
    /// Held by whoever reads the files.
    reloading: Mutex<()>,
    /// Whether the last reload failed.
    failed: AtomicBool,
}

/// What a reload has changed.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Reloaded {
    /// The certificates that are not as they were; none where the files say what is
    /// in use already.
    pub changed: Vec<CertificateChange>,
    /// Whether clients are judged by other authorities or revocations than before.
    pub clients: bool,
}

/// The protocol a handshake agreed on (RFC 7301).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alpn {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
    /// The client named none.
    None,
}

/// TLS settings that cannot be used: every problem found.
#[derive(Debug)]
pub struct TlsError {
    problems: Vec<String>,
}

/// A handshake that did not end in a connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("the handshake was not finished within {0:?}")]
    Timeout(Duration),
    /// It failed.
    #[error("the handshake failed")]
    Failed(#[source] io::Error),
    /// The client's certificate is verified, and yet cannot be read.
    #[error("the client's certificate cannot be used: {0}")]
    Client(&'static str),
}

impl TlsAcceptor {
    /// Reads certificates and keys and offers the protocols in ALPN.
    ///
    /// A certificate that has expired is taken: to serve with it is better than not to
    /// start at all. [`keep_watch`] says so.
    ///
    /// # Errors
    ///
    /// Every certificate or key that cannot be used.
    pub fn new(
        settings: &TlsSettings,
        http1: bool,
        http2: bool,
        tickets: &Tickets,
    ) -> Result<Self, TlsError> {
        let base = Base::new(settings.min_version, http1, http2)
            .map_err(|error| TlsError::new(error.to_string()))?;
        let certificates = Certificates::read(settings, &base, tickets)?;
        warn_of_exposed_keys(settings);
        Ok(Self(Arc::new(Listening {
            settings: settings.clone(),
            base,
            tickets: tickets.clone(),
            certificates: ArcSwap::from_pointee(certificates),
            reloading: Mutex::new(()),
            failed: AtomicBool::new(false),
        })))
    }

    /// The acceptor of a listener whose settings may have changed, which takes the
    /// tickets of this one. Nothing happens to this one; it is this one if nothing is
    /// different, so that whoever has either follows the files.
    ///
    /// # Errors
    ///
    /// As with [`TlsAcceptor::reload`].
    pub fn renewed(
        &self,
        settings: &TlsSettings,
        http1: bool,
        http2: bool,
    ) -> Result<Self, TlsError> {
        let new = Self::new(settings, http1, http2, &self.0.tickets)?;
        let (read, running) = (new.0.certificates.load(), self.0.certificates.load());
        must_not_be_worse(&read, &running)?;
        let same = new.0.settings == self.0.settings
            && new.0.base.agrees_with(&self.0.base)
            && read.judges_like(&running)
            && read.changes(&running).is_empty();
        drop((read, running));
        Ok(if same { self.clone() } else { new })
    }

    /// Reads all its files again and shows what they hold to whoever connects from now
    /// on. Connections that are open, or shaking hands, go on with what they began with.
    ///
    /// It changes all or nothing: if one file cannot be used, the certificates in use
    /// stay. So they do if a certificate is not valid at this time (expired, or not
    /// valid yet) while the one that came from its file before is, and if the successor
    /// of a list of revocations is due. It blocks while it reads.
    ///
    /// # Errors
    ///
    /// Every file that cannot be used.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        let _one = self.0.reloading.lock();
        let reloaded = self.try_reload();
        self.0.failed.store(reloaded.is_err(), Ordering::Relaxed);
        reloaded
    }

    fn try_reload(&self) -> Result<Reloaded, TlsError> {
        let Listening { settings, base, tickets, certificates, .. } = &*self.0;
        let running = certificates.load_full();
        let mut read = Certificates::read(settings, base, tickets)?;
        must_not_be_worse(&read, &running)?;
        let reloaded =
            Reloaded { changed: read.changes(&running), clients: !read.judges_like(&running) };
        if !reloaded.is_unchanged() {
            read.share_names(&running);
            certificates.store(Arc::new(read));
            warn_of_exposed_keys(settings);
        }
        Ok(reloaded)
    }

    /// The files that it reads, each once.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.0.settings.files().cloned().collect();
        files.sort();
        files.dedup();
        files
    }

    /// The certificates in use, in the order of the settings.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateFacts> {
        self.0.certificates.load().facts().cloned().collect()
    }

    /// The files by which clients are judged, as they are in use; none where clients are
    /// not asked for certificates.
    #[must_use]
    pub fn client_auth(&self) -> Vec<ClientAuthFile> {
        self.0.certificates.load().client_auth().to_vec()
    }

    /// Every certificate, and every file by which clients are judged, as it is in use:
    /// where it is, its fingerprint, and until when it is valid.
    #[must_use]
    pub fn in_use(&self) -> Vec<(PathBuf, String, String)> {
        let shown = self.certificates().into_iter();
        let shown = shown.map(|facts| (facts.file, facts.sha256, facts.not_after));
        let judge = self.client_auth().into_iter();
        let judge = judge.map(|one| (one.file, one.sha256, facts::rfc3339(one.not_after_seconds)));
        shown.chain(judge).collect()
    }

    /// Whether the last reload failed, so that the files are not what is in use.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// The files are what is in use.
    fn settle(&self) {
        self.0.failed.store(false, Ordering::Relaxed);
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &TlsSettings {
        &self.0.settings
    }

    /// Shakes hands on a connection that was just made. The stream is boxed: it is
    /// large, and is moved often.
    ///
    /// # Errors
    ///
    /// The handshake failed, or took too long.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        tcp: IO,
    ) -> Result<(Box<TlsStream<IO>>, TlsFacts, Alpn), HandshakeError> {
        let timeout = self.0.settings.handshake_timeout;
        let (stream, hosts, session) = tokio::time::timeout(timeout, self.handshake(tcp))
            .await
            .map_err(|_| HandshakeError::Timeout(timeout))?
            .map_err(HandshakeError::Failed)?;
        let connection = stream.get_ref().1;
        let client = self.client(connection.peer_certificates(), session.as_ref())?.map(Arc::new);
        let alpn = match connection.alpn_protocol() {
            Some(b"h2") => Alpn::Http2,
            Some(_) => Alpn::Http1,
            None => Alpn::None,
        };
        let version = connection.protocol_version().and_then(|version| version.as_str());
        let cipher = connection.negotiated_cipher_suite().and_then(|s| s.suite().as_str());
        let facts = TlsFacts {
            server_name: connection.server_name().map(|name| name.to_ascii_lowercase().into()),
            version: version.unwrap_or("unknown"),
            cipher: cipher.unwrap_or("unknown"),
            hosts,
            client,
        };
        Ok((Box::new(stream), facts, alpn))
    }

    /// Who the client is, by the chain that it has shown, now or when the session began.
    fn client(
        &self,
        chain: Option<&[CertificateDer<'static>]>,
        session: Option<&Session>,
    ) -> Result<Option<ClientCertificate>, HandshakeError> {
        let Some(auth) = &self.0.settings.client_auth else { return Ok(None) };
        match chain {
            Some(chain) => {
                // No handshake ends without one.
                let authority = session.and_then(Session::authority);
                let authority = authority.ok_or(HandshakeError::Client("nobody vouches for it"))?;
                client_certificate(chain, authority).map(Some).map_err(HandshakeError::Client)
            }
            None if auth.mode == ClientAuthMode::Request => Ok(None),
            // No handshake ends like that; who is let in does not hang on it.
            None => Err(HandshakeError::Client("there is none")),
        }
    }

    /// The certificate is chosen, and with it whose tickets are taken, once the client
    /// has said its name.
    async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        tcp: IO,
    ) -> io::Result<(TlsStream<IO>, Option<Arc<dyn Hosts>>, Option<Session>)> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
        let ((config, session), hosts) = {
            let certificates = self.0.certificates.load();
            // Where there is one certificate for all, all hosts are alike.
            let several = self.0.settings.certificates.len() > 1;
            let hosts = several.then(|| certificates.names().clone() as Arc<dyn Hosts>);
            (certificates.config(hello.client_hello().server_name(), &self.0.base), hosts)
        };
        match hello.into_stream(config).into_fallible().await {
            Ok(stream) => Ok((stream, hosts, session)),
            Err((error, tcp)) => {
                if is_about_clients(&error) {
                    let _took_longer = tokio::time::timeout(LINGER, let_go(tcp)).await;
                }
                Err(error)
            }
        }
    }
}

fn is_about_clients(error: &io::Error) -> bool {
    use rustls::Error::{InvalidCertificate, NoCertificatesPresented};
    let cause = cause_of::<rustls::Error>(error);
    matches!(cause, Some(NoCertificatesPresented | InvalidCertificate(_)))
}

/// Lets the client read why there is no connection. With TLS 1.3 it has sent its request by
/// then, and a socket that is closed on top of that takes back what was said (RFC 9112
/// §9.6 has the same of HTTP).
async fn let_go<IO: AsyncRead + AsyncWrite + Unpin>(mut tcp: IO) {
    if tcp.shutdown().await.is_err() {
        return;
    }
    let mut unread = vec![0; 4 * 1024];
    for _ in 0..32 {
        if !matches!(tcp.read(&mut unread).await, Ok(1..)) {
            return;
        }
    }
}

fn warn_of_exposed_keys(settings: &TlsSettings) {
    for one in &settings.certificates {
        pem::warn_if_exposed(&one.key);
    }
}

fn must_not_be_worse(new: &Certificates, running: &Certificates) -> Result<(), TlsError> {
    let problems = new.worse_than(running, jiff::Timestamp::now().as_second());
    if problems.is_empty() { Ok(()) } else { Err(TlsError { problems }) }
}

impl Reloaded {
    /// Whether the files say what is in use already.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.changed.is_empty() && !self.clients
    }
}

impl HandshakeError {
    /// The reason as one word, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        let error = match self {
            Self::Timeout(_) => return "timeout",
            Self::Client(_) => return "client_certificate",
            Self::Failed(error) => error,
        };
        match cause_of::<rustls::Error>(error) {
            Some(rustls::Error::NoApplicationProtocol) => "alpn",
            Some(rustls::Error::NoCertificatesPresented) => "no_client_certificate",
            Some(rustls::Error::InvalidCertificate(_)) => "client_certificate",
            Some(rustls::Error::AlertReceived(_)) => "alert",
            Some(_) => "protocol",
            None => "disconnected",
        }
    }
}

impl TlsError {
    fn new(problem: String) -> Self {
        Self { problems: vec![problem] }
    }

    /// Every problem found, a sentence each.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("; "))
    }
}

impl std::error::Error for TlsError {}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
