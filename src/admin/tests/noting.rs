//! An operator that notes what it is asked.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::admin::{
    Confirmed, Operator, PendingConfirm, Refused, Reload, Reloaded, Reply, Status, Upgraded,
};
use crate::observe::{LogFilter, LogLevelSource};
use crate::upstream::{OriginChange, OriginStatus, UpstreamStatus};

/// Notes what it is asked, and does as it is told to.
#[derive(Debug, Default)]
pub(super) struct Noting {
    pub(super) asked: Mutex<Vec<String>>,
    pub(super) refuses: Mutex<Option<Refused>>,
}

impl Noting {
    fn note<T>(&self, what: String, done: T) -> Result<T, Refused> {
        self.asked.lock().push(what);
        self.refuses.lock().clone().map_or(Ok(done), Err)
    }

    fn reply<T: Send + 'static>(&self, what: String, done: T) -> Reply<'_, T> {
        let outcome = self.note(what, done);
        Box::pin(async move { outcome })
    }

    fn reloaded(reload: Reload) -> Reloaded {
        Reloaded {
            generation: 2,
            changed: true,
            plan: json!({ "routes": { "added": ["a"] } }),
            text: "+ route a\n".to_owned(),
            confirm_within: reload.confirm,
        }
    }
}

/// An origin that is drained, and has another weight than is configured.
fn origin(name: &str) -> OriginStatus {
    OriginStatus {
        name: name.to_owned(),
        url: format!("http://{name}"),
        weight: 3,
        configured_weight: 1,
        drained: true,
        healthy: true,
        condemned: false,
        reason: None,
        set_aside_for_ms: None,
        open_connections: 2,
    }
}

impl Operator for Noting {
    fn status(&self) -> Status {
        Status {
            version: Cow::Borrowed("1.2.3"),
            pid: 7,
            uptime: Duration::from_secs(90),
            config_file: Some("/etc/tollgate/config.toml".into()),
            generation: 2,
            loaded_at: SystemTime::UNIX_EPOCH,
            last_reload: None,
            pending_confirm: Some(PendingConfirm { generation: 2, left: Duration::from_secs(5) }),
            needs_restart: vec!["server.workers".to_owned()],
        }
    }

    fn reload(&self, reload: Reload) -> Reply<'_, Reloaded> {
        self.reply(format!("{reload:?}"), Self::reloaded(reload))
    }

    fn confirm(&self) -> Reply<'_, Confirmed> {
        self.reply("confirm".to_owned(), Confirmed { generation: 2 })
    }

    fn roll_back(&self) -> Reply<'_, Reloaded> {
        self.reply("roll back".to_owned(), Self::reloaded(Reload::default()))
    }

    fn upgrade(&self) -> Reply<'_, Upgraded> {
        self.reply("upgrade".to_owned(), Upgraded { pid: 8 })
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        let origins = ["127.0.0.1:80", "[::1]:80"].map(origin).to_vec();
        vec![UpstreamStatus { name: "my api".to_owned(), origins }]
    }

    fn set_origin(
        &self,
        upstream: &str,
        origin: &str,
        change: &OriginChange,
    ) -> Result<OriginStatus, Refused> {
        self.note(format!("{upstream} {origin} {change:?}"), self::origin(origin))
    }

    fn log_level(&self) -> Result<LogFilter, Refused> {
        self.set_log_level(Some("info"))
    }

    fn set_log_level(&self, level: Option<&str>) -> Result<LogFilter, Refused> {
        let now = LogFilter {
            level: level.unwrap_or("info").to_owned(),
            from: LogLevelSource::Operator,
            configured: "info".to_owned(),
        };
        self.note(format!("log {level:?}"), now)
    }

    fn set_rate_limit_dry_run(
        &self,
        route: &str,
        limit: Option<&str>,
        dry_run: bool,
    ) -> Result<(), Refused> {
        let limit = limit.map_or_else(String::new, |limit| format!(" {limit}"));
        self.note(format!("{route}{limit} {dry_run}"), ())
    }

    fn certificates(&self) -> Vec<Value> {
        vec![json!({ "file": "a.pem" })]
    }
}
