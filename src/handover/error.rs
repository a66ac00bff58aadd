//! Why an upgrade did not come to pass.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::PROTOCOL;

/// Why an upgrade did not come to pass. The predecessor serves on, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The container ends with this process, so that a successor would end with it.
    #[error(
        "this process cannot hand over: {0}, and the container ends with it; replace the \
         container instead: start the new one, then end this one by SIGTERM, which drains it"
    )]
    EndsContainer(&'static str),
    /// The program is missing, or cannot be executed.
    #[error("cannot start {}: {cause}", program.display())]
    CannotStart {
        /// The program's path.
        program: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It ended without a word. What it had to say is in its log.
    #[error("the new process ended before it was ready ({0}); its log says why")]
    Ended(ExitStatus),
    /// It said why it cannot serve, such as a whole report on the configuration.
    #[error("the new process cannot serve: {0}")]
    Failed(String),
    /// It neither failed nor got ready.
    #[error("the new process was not ready after {}", humantime::format_duration(*.0))]
    TooSlow(Duration),
    /// It was told to go and did not say that it serves.
    #[error(
        "the new process was ready, but did not begin to serve within {}",
        humantime::format_duration(*.0)
    )]
    DidNotBegin(Duration),
    /// It is a version that hands over in another way.
    #[error(
        "the new process is tollgate {version}, which hands over by protocol {theirs}; this one \
         ({}) does by {PROTOCOL}: start it anew instead",
        env!("CARGO_PKG_VERSION")
    )]
    OtherProtocol {
        /// The protocol that it speaks.
        theirs: u32,
        /// The version that it says it is.
        version: String,
    },
    /// It said something that is no word of the protocol; it may be another program.
    #[error("the new process said what no tollgate says: {0}")]
    Unintelligible(String),
    /// The system has no socket or no process to spare.
    #[error("cannot hand over: {0}")]
    Io(#[from] io::Error),
}
