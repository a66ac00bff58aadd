//! The successor's side: what it is given, and what it is told.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::wire::{Greeting, Inbox, Order, Report, line, parse};
use super::{PROTOCOL, VARIABLE};

/// How long a predecessor that does not listen holds its successor up.
const UNHEARD: Duration = Duration::from_secs(5);

/// The process that started this one to be replaced by it.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    /// Came too early to be asked for.
    unread: Vec<u8>,
}

/// What a successor that is ready is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Verdict {
    /// Serve, and then say so by [`Predecessor::serving`].
    Go,
    /// Serve: the predecessor has died, and the sockets have no owner but this
    /// process.
    Alone,
    /// End: the predecessor serves on.
    Abort,
}

impl Predecessor {
    /// The predecessor, if this process was started by one, with the sockets and the
    /// state that it hands over. Waits for them. Standard input is empty afterwards.
    ///
    /// # Errors
    ///
    /// The predecessor has died, speaks another protocol, or is none: the variable
    /// [`VARIABLE`] was set by somebody else. If the predecessor is there it is told
    /// as well.
    pub fn from_env() -> io::Result<Option<(Self, Vec<OwnedFd>, Value)>> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let mut predecessor = Self { stream: take_stdin()?, unread: Vec::new() };
        match predecessor.take_over() {
            Ok((sockets, state)) => Ok(Some((predecessor, sockets, state))),
            Err(error) => {
                predecessor.failed(&error.to_string());
                Err(error)
            }
        }
    }

    /// Says that this process could serve at once, and waits to be told what to do.
    ///
    /// # Errors
    ///
    /// The predecessor says what is no word of the protocol, or the runtime cannot
    /// wait for it.
    pub async fn ready(&mut self) -> io::Result<Verdict> {
        // One that is gone may have left word that this process is to end.
        let _gone = self.say(&Report::Ready);
        let stream = self.stream.try_clone()?;
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        let mut order = Vec::new();
        let unread = std::mem::take(&mut self.unread);
        let mut words = BufReader::new(unread.as_slice().chain(stream));
        match words.read_until(b'\n', &mut order).await {
            Ok(_) if order.ends_with(b"\n") => {}
            Ok(_) | Err(_) => return Ok(Verdict::Alone),
        }
        match parse(&order)? {
            Order::Go => Ok(Verdict::Go),
            Order::Abort => Ok(Verdict::Abort),
            other => {
                let said = format!("the predecessor says {other:?} to who is ready");
                Err(io::Error::new(io::ErrorKind::InvalidData, said))
            }
        }
    }

    /// Says that this process serves, so that the predecessor drains. One that has
    /// died is not missed.
    pub fn serving(self) {
        let _gone = self.say(&Report::Serving);
    }

    /// Says why this process cannot serve, in words that the predecessor's operator
    /// is shown. This process is then to end.
    pub fn failed(self, text: &str) {
        let _gone = self.say(&Report::Failed(text.to_owned()));
    }

    fn say(&self, report: &Report) -> io::Result<()> {
        // It may not be waited for, for the sake of a predecessor that is stopped.
        self.stream.set_nonblocking(false)?;
        self.stream.set_write_timeout(Some(UNHEARD))?;
        (&self.stream).write_all(&line(report)?)
    }

    fn take_over(&mut self) -> io::Result<(Vec<OwnedFd>, Value)> {
        (&self.stream).write_all(&line(&Greeting::ours())?).map_err(gone)?;
        let mut inbox = Inbox::new(self.stream.try_clone()?);
        let greeting: Greeting = inbox.next().map_err(gone)?;
        if greeting.handover != PROTOCOL {
            return Err(other_protocol(&greeting));
        }
        let mut announced = 0;
        let state = loop {
            match inbox.next().map_err(gone)? {
                Order::Sockets(more) => announced += more,
                Order::State(state) => break state,
                other => return Err(io::Error::other(format!("too early a word: {other:?}"))),
            }
        };
        let sockets = inbox.take_sockets();
        self.unread = inbox.into_unread();
        if sockets.len() == announced {
            return Ok((sockets, state));
        }
        Err(io::Error::other(format!("{announced} sockets were to come, {} did", sockets.len())))
    }
}

/// Standard input, in whose place comes an empty one.
fn take_stdin() -> io::Result<UnixStream> {
    let stdin = io::stdin();
    let stream = UnixStream::from(stdin.as_fd().try_clone_to_owned()?);
    if let Err(error) = stream.local_addr() {
        return Err(io::Error::new(
            error.kind(),
            format!(
                "{VARIABLE} is set, but standard input is not a predecessor's socket: it is for \
                 processes that an upgrade starts, unset it"
            ),
        ));
    }
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(stream)
}

fn gone(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => {
            io::Error::new(error.kind(), "the predecessor was gone before it had handed over")
        }
        _ => error,
    }
}

fn other_protocol(greeting: &Greeting) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "the running process is tollgate {}, which hands over by protocol {}; this one ({}) \
             does by {PROTOCOL}: end it and start this one anew",
            greeting.tollgate,
            greeting.handover,
            env!("CARGO_PKG_VERSION"),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, Predecessor) {
        let (theirs, stream) = UnixStream::pair().unwrap();
        (theirs, Predecessor { stream, unread: Vec::new() })
    }

    #[tokio::test]
    async fn a_successor_ends_if_that_was_the_last_word() {
        let (mut theirs, mut predecessor) = pair();
        theirs.write_all(&line(&Order::Abort).unwrap()).unwrap();
        drop(theirs);
        assert_eq!(predecessor.ready().await.unwrap(), Verdict::Abort);
    }

    #[tokio::test]
    async fn the_last_word_may_come_with_those_before() {
        let (mut theirs, mut predecessor) = pair();
        let words = [Order::Sockets(0), Order::State(Value::Null), Order::Abort];
        let mut all = line(&Greeting::ours()).unwrap();
        words.iter().for_each(|word| all.extend(line(word).unwrap()));
        theirs.write_all(&all).unwrap();
        predecessor.take_over().unwrap();
        drop(theirs);
        assert_eq!(predecessor.ready().await.unwrap(), Verdict::Abort);
    }

    #[tokio::test]
    async fn without_a_last_word_the_sockets_need_an_owner() {
        let (theirs, mut predecessor) = pair();
        drop(theirs);
        assert_eq!(predecessor.ready().await.unwrap(), Verdict::Alone);
        predecessor.serving();
    }

    #[test]
    fn a_predecessor_of_another_protocol_is_named() {
        let (mut theirs, mut predecessor) = pair();
        theirs.write_all(b"{\"tollgate\":\"9.1.0\",\"handover\":9,\"new\":[]}\n").unwrap();
        let error = predecessor.take_over().unwrap_err().to_string();
        assert!(error.contains("tollgate 9.1.0, which hands over by protocol 9"), "{error}");
    }

    #[test]
    fn a_predecessor_that_dies_half_way_is_not_waited_for() {
        let (mut theirs, mut predecessor) = pair();
        theirs.write_all(&line(&Greeting::ours()).unwrap()).unwrap();
        drop(theirs);
        let error = predecessor.take_over().unwrap_err().to_string();
        assert_eq!(error, "the predecessor was gone before it had handed over");
    }

    #[test]
    fn sockets_that_were_lost_are_missed() {
        let (mut theirs, mut predecessor) = pair();
        let words =
            [line(&Greeting::ours()), line(&Order::Sockets(2)), line(&Order::State(1.into()))];
        words.into_iter().for_each(|word| theirs.write_all(&word.unwrap()).unwrap());
        let error = predecessor.take_over().unwrap_err().to_string();
        assert_eq!(error, "2 sockets were to come, 0 did");
    }
}
