//! What the two say to each other, and how sockets travel beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::FdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PROTOCOL;

/// The most sockets that one message carries; Linux takes no more (`SCM_MAX_FD`).
pub(super) const BATCH: usize = 253;

/// Room for a batch of sockets beside a message, in bytes.
const SPACE: usize = rustix::cmsg_space!(ScmRights(BATCH));

/// How much is shown of what is not understood, in bytes.
const BEGINNING: usize = 24;

/// What both say first. It stays as it is in every version, for it is what tells
/// them that they are of versions that do not go together.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Greeting {
    /// The version of the binary.
    pub(super) tollgate: String,
    /// The version of the conversation that follows.
    pub(super) handover: u32,
}

impl Greeting {
    pub(super) fn ours() -> Self {
        Self { tollgate: env!("CARGO_PKG_VERSION").to_owned(), handover: PROTOCOL }
    }
}

/// What the predecessor says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// So many sockets come with this line.
    Sockets(usize),
    /// What else is handed over; the last before the successor is ready.
    State(serde_json::Value),
    /// Serve.
    Go,
    /// End; the predecessor serves on.
    Abort,
}

/// What the successor says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It could serve at once.
    Ready,
    /// It cannot serve, for this reason.
    Failed(String),
    /// It serves.
    Serving,
}

/// One message.
pub(super) fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

pub(super) fn parse<T: DeserializeOwned>(line: &[u8]) -> io::Result<T> {
    serde_json::from_slice(line).map_err(|_| {
        // No more of it than tells what it is: there may be keys in the rest.
        let begins = String::from_utf8_lossy(&line[..line.len().min(BEGINNING)]);
        let said = format!("not a word of the handover: {}", begins.trim_end());
        io::Error::new(io::ErrorKind::InvalidData, said)
    })
}

/// Sends bytes with sockets beside the first of them, and says how many bytes went.
pub(super) fn send(
    stream: impl AsFd,
    bytes: &[u8],
    sockets: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("more sockets than fit beside a message"));
    }
    let parts = [IoSlice::new(bytes)];
    let send = || rustix::net::sendmsg(&stream, &parts, &mut beside, SendFlags::empty());
    Ok(rustix::io::retry_on_intr(send)?)
}

/// What has come from the other side.
#[derive(Debug)]
pub(super) struct Inbox {
    stream: UnixStream,
    unread: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

impl Inbox {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, unread: Vec::new(), sockets: Vec::new() }
    }

    /// The next message, waited for. An error of kind `UnexpectedEof` if the other
    /// side is gone.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return parse(&line);
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.stream, parts, &mut beside, RecvFlags::empty())
        })?;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                for socket in sockets {
                    // A process that this one starts is not to have it.
                    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
                    self.sockets.push(socket);
                }
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("the limit on open files leaves no room for the sockets"));
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&bytes[..received.bytes]);
        Ok(())
    }

    /// The sockets that came beside the messages so far, in their order.
    pub(super) fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    /// What has come behind the messages that were asked for.
    pub(super) fn into_unread(self) -> Vec<u8> {
        self.unread
    }
}
