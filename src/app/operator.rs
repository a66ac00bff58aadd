//! The running proxy as the admin API sees it.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::control::Control;
use crate::admin::{Confirmed, Operator, Refused, Reload, Reloaded, Reply, Status, Upgraded};
use crate::layers::{Cache, Limit};
use crate::observe::{LogFilter, ReloadTrigger};
use crate::tls::{CertificateFacts, TlsAcceptor};
use crate::upstream::{OriginChange, OriginStatus, Upstream, UpstreamStatus};

impl Operator for Control {
    fn status(&self) -> Status {
        let pending_confirm = self.pending();
        let shown = self.0.shown.lock();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: Instant::now() - self.0.started,
            config_file: self.0.config.clone(),
            generation: shown.number,
            loaded_at: shown.since,
            last_reload: shown.last.clone(),
            pending_confirm,
            needs_restart: shown.needs_restart.clone(),
        }
    }

    fn reload(&self, reload: Reload) -> Reply<'_, Reloaded> {
        Box::pin(async move {
            if !reload.plan_only {
                self.reopen_log().await;
            }
            self.reload_now(ReloadTrigger::Api, reload).await
        })
    }

    fn confirm(&self) -> Reply<'_, Confirmed> {
        Box::pin(async { self.keep().await.map(|generation| Confirmed { generation }) })
    }

    fn roll_back(&self) -> Reply<'_, Reloaded> {
        Box::pin(self.back())
    }

    fn upgrade(&self) -> Reply<'_, Upgraded> {
        Box::pin(async { self.upgrade_now().await.map(|pid| Upgraded { pid }) })
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        let (in_force, _) = self.in_force();
        let named = in_force.settings.upstreams.iter();
        let upstreams = named.filter_map(|upstream| in_force.upstreams.get(&upstream.name));
        upstreams.map(|upstream| upstream.status()).collect()
    }

    fn set_origin(
        &self,
        upstream: &str,
        origin: &str,
        change: &OriginChange,
    ) -> Result<OriginStatus, Refused> {
        let _steady = self.steady()?;
        let changed = self.upstream(upstream)?.set_origin(origin, change);
        changed.map_err(|missing| Refused::NotFound(missing.to_string()))
    }

    fn log_level(&self) -> Result<LogFilter, Refused> {
        let log = self.0.common.log.as_ref().ok_or_else(somebody_elses_log)?;
        Ok(log.get())
    }

    fn set_log_level(&self, level: Option<&str>) -> Result<LogFilter, Refused> {
        let _steady = self.steady()?;
        let log = self.0.common.log.as_ref().ok_or_else(somebody_elses_log)?;
        log.set(level).map_err(Refused::Invalid)
    }

    fn set_rate_limit_dry_run(
        &self,
        route: &str,
        limit: Option<&str>,
        dry_run: bool,
    ) -> Result<(), Refused> {
        let _steady = self.steady()?;
        let (in_force, _) = self.in_force();
        let is_meant = |of: &&Limit| limit.is_none_or(|name| *of.settings().name == *name);
        let meant: Vec<&Limit> = in_force.rate_limits(route).filter(is_meant).collect();
        if !meant.is_empty() {
            meant.into_iter().for_each(|limit| limit.set_dry_run(dry_run));
            return Ok(());
        }
        let known = in_force.settings.routes.iter().any(|known| known.name == route);
        Err(Refused::NotFound(match limit {
            _ if !known => format!("there is no route `{route}`"),
            None => format!("route `{route}` has no rate limit"),
            Some(limit) => format!("route `{route}` has no rate limit `{limit}`"),
        }))
    }

    fn certificates(&self) -> Vec<Value> {
        let (in_force, _) = self.in_force();
        let of_one = |(listener, tls): (Arc<str>, TlsAcceptor)| {
            tls.certificates()
                .into_iter()
                .map(move |facts| json(&InUse { listener: listener.to_string(), facts }))
        };
        in_force.acceptors().into_iter().flat_map(of_one).collect()
    }

    fn cache(&self) -> Result<Cache, Refused> {
        Ok(self.0.common.cache.clone())
    }
}

/// A certificate, and who shows it.
#[derive(Serialize)]
struct InUse {
    listener: String,
    #[serde(flatten)]
    facts: CertificateFacts,
}

impl Control {
    fn upstream(&self, name: &str) -> Result<Arc<Upstream>, Refused> {
        let (in_force, _) = self.in_force();
        let missing = || Refused::NotFound(format!("there is no upstream `{name}`"));
        in_force.upstreams.get(name).cloned().ok_or_else(missing)
    }
}

fn somebody_elses_log() -> Refused {
    Refused::Unsupported("the log is the host application's".to_owned())
}

fn json(value: &impl Serialize) -> Value {
    // Plain data with names for keys: it is always JSON.
    serde_json::to_value(value).unwrap_or_default()
}
