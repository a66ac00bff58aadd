//! What an operator may ask of a running proxy.
//!
//! The admin API turns requests into calls of an [`Operator`] and its answers into
//! JSON; whoever has the proxy in hand carries them out. All that is here is plain
//! data, so that neither side needs to know the other.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::layers::Cache;
use crate::observe::{LogFilter, ReloadResult, ReloadTrigger};
use crate::respond::Answer;
use crate::upstream::{OriginChange, OriginStatus, UpstreamStatus};

/// What comes of something that takes time.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refused>> + Send + 'a>>;

/// A running proxy, as its operator sees it.
///
/// The API awaits a reply to its end even if whoever asked has gone away: a change
/// is never left half done.
pub trait Operator: fmt::Debug + Send + Sync + 'static {
    /// What runs, with which configuration.
    fn status(&self) -> Status;

    /// Reads the configuration again, and has it in force unless only its plan is
    /// wanted.
    ///
    /// # Errors
    ///
    /// [`Refused::Invalid`] with the whole report if it is wrong,
    /// [`Refused::Conflict`] while another reload is under way or one waits to be
    /// confirmed, [`Refused::Unsupported`] if there is no file.
    fn reload(&self, reload: Reload) -> Reply<'_, Reloaded>;

    /// Keeps a configuration that would be rolled back.
    ///
    /// # Errors
    ///
    /// [`Refused::Conflict`] if none waits to be confirmed.
    fn confirm(&self) -> Reply<'_, Confirmed>;

    /// Goes back to the configuration before the last reload.
    ///
    /// # Errors
    ///
    /// [`Refused::Conflict`] if there is none to go back to.
    fn roll_back(&self) -> Reply<'_, Reloaded>;

    /// Has a successor, the binary that now is where this process's was, take over.
    /// The reply comes when it serves, and before this process ends.
    ///
    /// # Errors
    ///
    /// [`Refused::Failed`] with what the successor said; [`Refused::Conflict`] where
    /// there cannot be one.
    fn upgrade(&self) -> Reply<'_, Upgraded>;

    /// Every upstream, with its origins.
    fn upstreams(&self) -> Vec<UpstreamStatus>;

    /// Changes an origin, and says what it is then. See [`ORIGIN_PERSISTS`].
    ///
    /// # Errors
    ///
    /// [`Refused::NotFound`] if there is none of that name.
    fn set_origin(
        &self,
        upstream: &str,
        origin: &str,
        change: &OriginChange,
    ) -> Result<OriginStatus, Refused>;

    /// The level of the operational log.
    ///
    /// # Errors
    ///
    /// [`Refused::Unsupported`] if the log is somebody else's.
    fn log_level(&self) -> Result<LogFilter, Refused>;

    /// Logs by this level or filter; `None` goes back to what is configured. See
    /// [`LOG_LEVEL_PERSISTS`].
    ///
    /// # Errors
    ///
    /// [`Refused::Invalid`] if it is no level; [`Refused::Unsupported`] if the log is
    /// somebody else's.
    fn set_log_level(&self, level: Option<&str>) -> Result<LogFilter, Refused>;

    /// Whether a route's rate limit of this name, or all that it has, only count what they
    /// would refuse. See [`DRY_RUN_PERSISTS`].
    ///
    /// # Errors
    ///
    /// [`Refused::NotFound`] if there is no such route, or it has no such limit.
    fn set_rate_limit_dry_run(
        &self,
        route: &str,
        limit: Option<&str>,
        dry_run: bool,
    ) -> Result<(), Refused>;

    /// The certificates of all listeners.
    fn certificates(&self) -> Vec<Value>;

    /// The responses that are stored.
    ///
    /// # Errors
    ///
    /// [`Refused::Unsupported`] if none can be.
    fn cache(&self) -> Result<Cache, Refused> {
        Err(Refused::Unsupported("this proxy has no cache".to_owned()))
    }
}

/// How long a change to an origin lasts.
pub const ORIGIN_PERSISTS: &str = "until the next restart; a reload keeps it unless it removes the \
                                   origin, and a weight unless it changes the configured one; a \
                                   binary upgrade takes it along";

/// How long a change of the log's level lasts.
pub const LOG_LEVEL_PERSISTS: &str = "until the next restart; a reload keeps it unless it changes \
                                      log.level; a binary upgrade takes it along";

/// How long a change of a rate limit's dry run lasts.
pub const DRY_RUN_PERSISTS: &str = "until the next restart; a reload keeps it unless it changes \
                                    the route's rate_limit.dry_run; a binary upgrade takes it \
                                    along";

/// What runs, with which configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Tollgate's version.
    pub version: Cow<'static, str>,
    /// The process.
    pub pid: u32,
    /// Whole seconds since it started.
    #[serde(rename = "uptime_seconds", serialize_with = "seconds")]
    pub uptime: Duration,
    /// The configuration file; `None` if it was built from code.
    pub config_file: Option<PathBuf>,
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// When this configuration came into force.
    #[serde(serialize_with = "timestamp")]
    pub loaded_at: SystemTime,
    /// What became of the last reload; `None` if there was none yet.
    pub last_reload: Option<LastReload>,
    /// The configuration that is rolled back unless it is confirmed.
    pub pending_confirm: Option<PendingConfirm>,
    /// What stands otherwise in the configuration than it is in force, and needs a
    /// restart, such as `server.workers`.
    pub needs_restart: Vec<String>,
}

/// What became of a reload.
#[derive(Clone, Debug, Serialize)]
pub struct LastReload {
    /// When it was over.
    #[serde(serialize_with = "timestamp")]
    pub at: SystemTime,
    /// What it was for.
    pub trigger: ReloadTrigger,
    /// What came of it.
    pub result: ReloadResult,
    /// Why it failed.
    pub report: Option<String>,
}

/// A configuration that is rolled back unless it is confirmed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PendingConfirm {
    /// Which.
    pub generation: u64,
    /// The time that is left.
    #[serde(rename = "seconds_left", serialize_with = "seconds")]
    pub left: Duration,
}

/// A reload that is asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reload {
    /// Say what would change, and change nothing.
    pub plan_only: bool,
    /// Roll back by itself unless it is confirmed within this time.
    pub confirm: Option<Duration>,
}

/// What came of a reload or a rollback.
#[derive(Clone, Debug, Serialize)]
pub struct Reloaded {
    /// The configuration that is in force now.
    pub generation: u64,
    /// Whether the configuration is another than it was; of a plan: whether it
    /// would be.
    pub changed: bool,
    /// What changes, for programs.
    pub plan: Value,
    /// What changes, for people.
    pub text: String,
    /// The time within which it must be confirmed.
    #[serde(rename = "confirm_within_seconds", serialize_with = "maybe_seconds")]
    pub confirm_within: Option<Duration>,
}

/// A configuration that stays.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Confirmed {
    /// Which.
    pub generation: u64,
}

/// A successor that has taken over.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Upgraded {
    /// Its process.
    pub pid: u32,
}

/// Why an operator's wish was not carried out. Nothing has changed then.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// What was given is wrong: the whole report.
    #[error("{0}")]
    Invalid(String),
    /// Not now: something else is under way, or there is nothing to be done.
    #[error("{0}")]
    Conflict(String),
    /// It was tried, and failed.
    #[error("{0}")]
    Failed(String),
    /// This proxy cannot do that at all.
    #[error("{0}")]
    Unsupported(String),
}

impl Refused {
    /// The answer to whoever asked.
    #[must_use]
    pub fn answer(self) -> Answer {
        let (status, code) = match self {
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
            Self::Unsupported(_) => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
        };
        Answer::new(status, code, self.to_string())
    }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_secs())
}

fn maybe_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

fn timestamp<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
}
