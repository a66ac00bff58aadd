//! The operational log, on standard error.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::reload::Handle;

use crate::config::LogSettings;
use crate::observe::{LogFilter, LogLevel, LogLevelSource, check_log_level};

/// Starts the log. `RUST_LOG` overrules the configured level, until somebody sets
/// another by hand. Where it is empty it says nothing, and does not mean no log.
pub(super) fn start_log(settings: &LogSettings) -> Arc<dyn LogLevel> {
    let environment = std::env::var("RUST_LOG").ok().filter(|text| says_a_level(text));
    let styled = io::stderr().is_terminal();
    let (log, level) = log(settings, environment, io::stderr, styled);
    if let Err(error) = tracing::dispatcher::set_global_default(log) {
        eprintln!("tollgate: the log cannot be started: {error}");
    }
    Arc::new(level)
}

/// A log that goes to `writer`, and its level.
fn log<W>(
    settings: &LogSettings,
    environment: Option<String>,
    writer: W,
    styled: bool,
) -> (Dispatch, Level)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let state = State { environment, configured: settings.level.clone(), set: None };
    let filter = state.filter().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let log = log.with_target(false);
    let (apply, log) = if settings.json {
        let log = log.json().flatten_event(true).with_filter_reloading();
        (applying(log.reload_handle()), Dispatch::new(log.finish()))
    } else {
        let log = log.with_ansi(styled).with_filter_reloading();
        (applying(log.reload_handle()), Dispatch::new(log.finish()))
    };
    (log, Level { apply, state: Mutex::new(state) })
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

fn says_a_level(text: &str) -> bool {
    !text.trim().is_empty() && parsed(text).is_ok()
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
    use std::sync::LazyLock;

    use tracing::subscriber::NoSubscriber;

    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
        }
    }

    /// With only one log in the process, tracing would ask that of whichever thread
    /// changes a level, and not the one whose level it is.
    static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

    fn started(json: bool, environment: Option<&str>) -> (Dispatch, Level, Written) {
        LazyLock::force(&ANOTHER);
        let written = Written::default();
        let settings = LogSettings { level: "info".to_owned(), json };
        let writer = {
            let written = written.clone();
            move || written.clone()
        };
        let (log, level) = log(&settings, environment.map(str::to_owned), writer, false);
        (log, level, written)
    }

    /// The words of each line that is logged at each level.
    fn logged(log: &Dispatch, written: &Written) -> Vec<String> {
        tracing::dispatcher::with_default(log, || {
            tracing::trace!("trace");
            tracing::debug!("debug");
            tracing::info!("info");
            tracing::error!("error");
            tracing::warn!(target: "h2::proto", "peer");
        });
        let words = ["trace", "debug", "info", "error", "peer"];
        let text = written.take();
        let has = |line: &str, word: &str| {
            line.ends_with(&format!(" {word}")) || line.contains(&format!("\"message\":\"{word}\""))
        };
        let word = |line| words.iter().find(|word| has(line, word)).unwrap_or(&line).to_string();
        text.lines().map(word).collect()
    }

    #[test]
    fn the_log_follows_the_level_while_it_runs() {
        for json in [false, true] {
            let (log, level, written) = started(json, None);
            assert_eq!(logged(&log, &written), ["info", "error"]);
            level.set(Some("debug")).unwrap();
            assert_eq!(logged(&log, &written), ["debug", "info", "error"]);
            level.set(Some("h2=warn,off")).unwrap();
            assert_eq!(logged(&log, &written), ["peer"]);
            level.configure("error");
            assert_eq!(logged(&log, &written), ["error"]);
        }
    }

    #[test]
    fn a_level_is_set_by_hand_and_taken_back() {
        let (_log, level, _written) = started(false, None);
        assert_eq!(level.get().from, LogLevelSource::Configuration);
        let set = level.set(Some("tollgate::upstream=debug,warn")).unwrap();
        assert_eq!((set.from, &*set.configured), (LogLevelSource::Operator, "info"));
        assert_eq!(level.set(None).unwrap().level, "info");
    }

    #[test]
    fn an_empty_variable_says_nothing() {
        assert!(!says_a_level("") && !says_a_level(" "));
        assert!(says_a_level("off") && says_a_level("info,tollgate::upstream=debug"));
    }

    #[test]
    fn what_is_no_level_changes_nothing() {
        let (log, level, written) = started(false, None);
        assert!(level.set(Some("loud")).unwrap_err().contains("`loud` is not a level"));
        assert_eq!(level.get().level, "info");
        assert_eq!(logged(&log, &written), ["info", "error"]);
    }

    #[test]
    fn a_configured_level_counts_when_it_is_another() {
        let (_log, level, _written) = started(false, None);
        level.set(Some("trace")).unwrap();
        level.configure("info");
        assert_eq!(level.get().level, "trace");
        level.configure("warn");
        assert_eq!(level.get().level, "warn");
        assert_eq!(level.get().from, LogLevelSource::Configuration);
    }

    #[test]
    fn the_environment_overrules_the_configuration_but_not_the_operator() {
        let (log, level, written) = started(false, Some("error"));
        assert_eq!(level.get().from, LogLevelSource::Environment);
        level.configure("debug");
        assert_eq!(logged(&log, &written), ["error"]);
        assert_eq!(level.set(Some("info")).unwrap().level, "info");
        assert_eq!(logged(&log, &written), ["info", "error"]);
        assert_eq!(level.set(None).unwrap().level, "error");
    }
}
