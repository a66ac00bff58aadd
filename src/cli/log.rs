//! The operational log, on standard error.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use crate::config::LogSettings;
use crate::observe::{LogFilter, LogLevel, LogLevelSource, check_log_level};

/// Starts the log. `RUST_LOG` overrules the configured level, until somebody sets
/// another by hand.
pub(super) fn start_log(settings: &LogSettings) -> Arc<dyn LogLevel> {
    let environment = std::env::var("RUST_LOG").ok().filter(|text| parsed(text).is_ok());
    let state = State { environment, configured: settings.level.clone(), set: None };
    let filter = state.filter().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let log = log.with_target(false);
    let (apply, started) = if settings.json {
        let log = log.json().flatten_event(true).with_filter_reloading();
        (applying(log.reload_handle()), log.try_init())
    } else {
        let log = log.with_ansi(io::stderr().is_terminal()).with_filter_reloading();
        (applying(log.reload_handle()), log.try_init())
    };
    if let Err(error) = started {
        eprintln!("tollgate: the log cannot be started: {error}");
    }
    Arc::new(Level { apply, state: Mutex::new(state) })
}

/// Puts another filter in force.
type Apply = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

fn applying<S: 'static>(handle: Handle<EnvFilter, S>) -> Apply {
    Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
}

/// The level, as long as the log goes on.
struct Level {
    apply: Apply,
    state: Mutex<State>,
}

/// What has been said of the level, and by whom.
#[derive(Clone, Debug)]
struct State {
    environment: Option<String>,
    configured: String,
    set: Option<String>,
}

impl State {
    fn told(&self) -> LogFilter {
        let (level, from) = match (&self.set, &self.environment) {
            (Some(set), _) => (set, LogLevelSource::Operator),
            (None, Some(environment)) => (environment, LogLevelSource::Environment),
            (None, None) => (&self.configured, LogLevelSource::Configuration),
        };
        LogFilter { level: level.clone(), from, configured: self.configured.clone() }
    }

    /// h2 warns of what its peers do, which would let them write the log: that is left
    /// out unless the level asks for it. `RUST_LOG` is taken as it is.
    fn filter(&self) -> Result<EnvFilter, String> {
        let LogFilter { level, from, .. } = self.told();
        match from {
            LogLevelSource::Environment => parsed(&level),
            _ => parsed(&format!("h2=error,{level}")),
        }
    }
}

fn parsed(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

impl Level {
    /// Has what `change` makes of the state in force, or leaves all as it is.
    fn change(&self, change: impl FnOnce(&mut State)) -> Result<LogFilter, String> {
        let mut state = self.state.lock();
        let mut next = state.clone();
        change(&mut next);
        (self.apply)(next.filter()?)?;
        *state = next;
        Ok(state.told())
    }
}

impl LogLevel for Level {
    fn get(&self) -> LogFilter {
        self.state.lock().told()
    }

    fn set(&self, level: Option<&str>) -> Result<LogFilter, String> {
        level.map(check_log_level).transpose()?;
        self.change(|state| state.set = level.map(str::to_owned))
    }

    fn configure(&self, level: &str) {
        if self.state.lock().configured == level {
            return;
        }
        let changed = self.change(|state| {
            level.clone_into(&mut state.configured);
            state.set = None;
        });
        if let Err(error) = changed {
            tracing::warn!(error, "the log's level cannot be changed");
        }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Level").field(&*self.state.lock()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A level whose filters go into a list.
    fn level(environment: Option<&str>) -> (Level, Arc<Mutex<Vec<String>>>) {
        let applied: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = applied.clone();
        let apply: Apply = Box::new(move |filter| {
            noted.lock().push(filter.to_string());
            Ok(())
        });
        let environment = environment.map(str::to_owned);
        let state = State { environment, configured: "info".to_owned(), set: None };
        (Level { apply, state: Mutex::new(state) }, applied)
    }

    #[test]
    fn a_level_is_set_by_hand_and_taken_back() {
        let (level, applied) = level(None);
        assert_eq!(level.get().from, LogLevelSource::Configuration);
        let set = level.set(Some("tollgate::upstream=debug,warn")).unwrap();
        assert_eq!((set.from, &*set.configured), (LogLevelSource::Operator, "info"));
        assert_eq!(level.set(None).unwrap().level, "info");
        let applied = applied.lock();
        assert!(applied[0].contains("tollgate::upstream=debug"), "{applied:?}");
        assert!(applied[1].contains("info") && applied[1].contains("h2=error"), "{applied:?}");
    }

    #[test]
    fn what_is_no_level_changes_nothing() {
        let (level, applied) = level(None);
        assert!(level.set(Some("loud")).unwrap_err().contains("`loud` is not a level"));
        assert_eq!(level.get().level, "info");
        assert!(applied.lock().is_empty());
    }

    #[test]
    fn a_configured_level_counts_when_it_is_another() {
        let (level, _applied) = level(None);
        level.set(Some("trace")).unwrap();
        level.configure("info");
        assert_eq!(level.get().level, "trace");
        level.configure("warn");
        assert_eq!(level.get().level, "warn");
        assert_eq!(level.get().from, LogLevelSource::Configuration);
    }

    #[test]
    fn the_environment_overrules_the_configuration_but_not_the_operator() {
        let (level, _applied) = level(Some("debug"));
        assert_eq!(level.get().from, LogLevelSource::Environment);
        level.configure("warn");
        assert_eq!(level.get().level, "debug");
        assert_eq!(level.set(Some("error")).unwrap().level, "error");
        assert_eq!(level.set(None).unwrap().level, "debug");
    }
}
