//! The level of the operational log, which can be changed while it runs.

use std::fmt;

use serde::Serialize;

/// Whoever prints the operational log, and lets its level be changed. A library
/// prints none: the binary does, or the host application.
pub trait LogLevel: fmt::Debug + Send + Sync + 'static {
    /// What is logged now.
    fn get(&self) -> LogFilter;

    /// Logs by this level or filter; `None` goes back to what is configured.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn set(&self, level: Option<&str>) -> Result<LogFilter, String>;

    /// The configuration says this level now. If it said another before, it takes
    /// the place of whatever was set meanwhile.
    fn configure(&self, level: &str);
}

/// What is logged, and who said so.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LogFilter {
    /// The level, or filter.
    pub level: String,
    /// Who said so.
    pub from: LogLevelSource,
    /// What the configuration says.
    pub configured: String,
}

impl LogFilter {
    /// The level, if it was set at run time.
    #[must_use]
    pub fn by_operator(self) -> Option<String> {
        (self.from == LogLevelSource::Operator).then_some(self.level)
    }
}

/// Who said what is logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevelSource {
    /// `log.level`.
    Configuration,
    /// `RUST_LOG`, which overrules it.
    Environment,
    /// Whoever changed it last, which overrules both.
    Operator,
}

const WHAT: &str = "a level (error, warn, info, debug, trace) or a filter such as \
                    \"info,tollgate::upstream=debug\"";

/// Whether this is a level or a filter of levels. A word that is neither would be
/// taken for the name of a target, and silence everything else.
///
/// # Errors
///
/// What was expected.
pub fn check_log_level(text: &str) -> Result<(), String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let fits = |part: &str| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        levels.contains(&level.trim())
    };
    if text.split(',').all(fits) { Ok(()) } else { Err(format!("`{text}` is not {WHAT}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_a_filter_is_one() {
        for level in ["off", "error", "trace", "info,tollgate::upstream=debug", "h2=warn, info"] {
            assert_eq!(check_log_level(level), Ok(()), "{level}");
        }
        for wrong in ["", "loud", "tollgate", "info,", "tollgate=loud", "INFO"] {
            assert!(check_log_level(wrong).is_err(), "{wrong}");
        }
    }
}
