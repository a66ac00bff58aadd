//! The predecessor's side: starts the successor and sees it through.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Interest, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::time::timeout;

use super::wire::{BATCH, Greeting, Order, Report, line, parse, send};
use super::{PROTOCOL, UpgradeError, VARIABLE};

/// How long a successor that is ready may take to begin, once it was told to.
const BEGINNING: Duration = Duration::from_secs(10);

/// How long what an ended process said last may take to be read, and how long one
/// that has failed may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is for this process alone, and would mislead another: sockets of the service
/// manager's by number, and whose pings it waits for.
const OURS_ALONE: [&str; 5] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID"];

/// A process that is ready to serve in the place of this one. If it is dropped before
/// it was told to go, it is killed.
#[derive(Debug)]
pub struct Successor {
    pid: u32,
    /// None once it goes its own way.
    child: Option<Child>,
    told: OwnedWriteHalf,
    heard: Lines<BufReader<OwnedReadHalf>>,
}

impl Successor {
    /// Starts a successor by this command, gives it the sockets and the state, and
    /// waits until it is ready. All together may take as long as `patience`.
    ///
    /// The command's standard input and [`VARIABLE`] are set here. What else it
    /// inherits are the other standard streams and the environment, without the
    /// variables by which a service manager speaks to this process alone.
    ///
    /// # Errors
    ///
    /// Why it did not become ready; then it is not there any more.
    pub async fn start(
        command: Command,
        sockets: &[OwnedFd],
        state: Value,
        patience: Duration,
    ) -> Result<Self, UpgradeError> {
        let mut successor = Self::spawn(command)?;
        let ready = timeout(patience, successor.prepare(sockets, state)).await;
        match ready.unwrap_or(Err(UpgradeError::TooSlow(patience))) {
            Ok(()) => Ok(successor),
            Err(error) => {
                successor.end(&error).await;
                Err(error)
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it to go, and waits until it serves. From then on it lives by itself,
    /// and this process may stop accepting. Until then this process is to serve on:
    /// both accept from the same sockets for a moment.
    ///
    /// # Errors
    ///
    /// It died or did not begin; it is not there any more, and this process is to
    /// serve on.
    pub async fn go(mut self) -> Result<(), UpgradeError> {
        let begun = timeout(BEGINNING, self.begin()).await;
        match begun.unwrap_or(Err(UpgradeError::DidNotBegin(BEGINNING))) {
            Ok(()) => {
                if let Some(child) = self.child.take() {
                    tokio::spawn(watch(child));
                }
                Ok(())
            }
            Err(error) => {
                self.end(&error).await;
                Err(error)
            }
        }
    }

    fn spawn(mut command: Command) -> Result<Self, UpgradeError> {
        if let Some(reason) = ends_container() {
            return Err(UpgradeError::EndsContainer(reason));
        }
        let program = PathBuf::from(command.get_program());
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (heard, told) = tokio::net::UnixStream::from_std(ours)?.into_split();
        command.stdin(Stdio::from(OwnedFd::from(theirs))).env(VARIABLE, "1");
        for variable in OURS_ALONE {
            command.env_remove(variable);
        }
        // Their end is closed here with the command, or its end would not be noticed.
        let child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|cause| UpgradeError::CannotStart { program, cause })?;
        let pid = child.id().unwrap_or_default();
        let heard = BufReader::new(heard).lines();
        Ok(Self { pid, child: Some(child), told, heard })
    }

    async fn prepare(&mut self, sockets: &[OwnedFd], state: Value) -> Result<(), UpgradeError> {
        self.say(&Greeting::ours(), &[]).await?;
        let said = self.hear().await?;
        let greeting: Greeting = understood(&said)?;
        if greeting.handover != PROTOCOL {
            let (theirs, version) = (greeting.handover, greeting.tollgate);
            return Err(UpgradeError::OtherProtocol { theirs, version });
        }
        for batch in sockets.chunks(BATCH) {
            let sockets: Vec<_> = batch.iter().map(|socket| socket.as_fd()).collect();
            self.say(&Order::Sockets(batch.len()), &sockets).await?;
        }
        self.say(&Order::State(state), &[]).await?;
        self.expect(|report| matches!(report, Report::Ready)).await
    }

    async fn begin(&mut self) -> Result<(), UpgradeError> {
        self.say(&Order::Go, &[]).await?;
        self.expect(|report| matches!(report, Report::Serving)).await
    }

    async fn expect(&mut self, hoped: impl Fn(&Report) -> bool) -> Result<(), UpgradeError> {
        let said = self.hear().await?;
        match understood(&said)? {
            Report::Failed(text) => Err(UpgradeError::Failed(text)),
            report if hoped(&report) => Ok(()),
            _ => Err(UpgradeError::Unintelligible(said)),
        }
    }

    /// Says something. One that is gone does not hear it: why, is told by what it
    /// said before.
    async fn say(
        &mut self,
        message: &impl Serialize,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), UpgradeError> {
        let line = line(message)?;
        let stream = self.told.as_ref();
        let sent = stream.async_io(Interest::WRITABLE, || send(stream, &line, sockets)).await;
        let sent = match sent {
            Ok(sent) => self.told.write_all(&line[sent..]).await,
            Err(error) => Err(error),
        };
        match sent {
            Err(error) if !is_gone(&error) => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What it says next; an error if it has ended.
    async fn hear(&mut self) -> Result<String, UpgradeError> {
        let Self { child: Some(child), heard, .. } = self else {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        };
        let said = tokio::select! {
            biased;
            said = heard.next_line() => said,
            // A process of its own may hold the socket open beyond its end.
            _ = child.wait() => timeout(LAST_WORDS, heard.next_line()).await.unwrap_or(Ok(None)),
        };
        match said {
            Ok(Some(said)) => Ok(said),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(UpgradeError::Unintelligible("bytes that are no text".to_owned()))
            }
            Ok(None) | Err(_) => Err(UpgradeError::Ended(child.wait().await?)),
        }
    }

    /// Sees to it that it is not there any more.
    async fn end(mut self, because: &UpgradeError) {
        self.abort();
        let Some(child) = &mut self.child else { return };
        let ends_by_itself = matches!(because, UpgradeError::Failed(_));
        if !ends_by_itself || timeout(LAST_WORDS, child.wait()).await.is_err() {
            // Fails only if it is gone already.
            let _gone = child.kill().await;
        }
        self.child = None;
    }

    /// For one that lives on when its parent was killed, as behind a script: or it
    /// would take this end of the socket's for this process's.
    fn abort(&self) {
        if let Ok(abort) = line(&Order::Abort) {
            let _gone = self.told.try_write(&abort);
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.abort();
        }
        let Some(mut child) = self.child.take() else { return };
        let _gone = child.start_kill();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { child.wait().await });
        }
    }
}

/// Takes note of a successor's end while this process drains.
async fn watch(mut child: Child) {
    let pid = child.id();
    let status = child.wait().await.map(|status: ExitStatus| status.to_string());
    let status = status.unwrap_or_else(|error| error.to_string());
    tracing::error!(pid, status, "the process that took over has ended");
}

fn understood<T: serde::de::DeserializeOwned>(said: &str) -> Result<T, UpgradeError> {
    parse(said.as_bytes()).map_err(|_| UpgradeError::Unintelligible(said.to_owned()))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Why a container ends with this process, if it does.
fn ends_container() -> Option<&'static str> {
    if std::process::id() == 1 {
        return Some("it is process 1");
    }
    // Such an init ends with the process that it started, whoever else is there.
    let by_init = std::os::unix::process::parent_id() == 1;
    let init = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    let small = ["tini", "docker-init", "dumb-init", "catatonit"].contains(&init.trim_end());
    (by_init && small).then_some("it was started by a container's init")
}
