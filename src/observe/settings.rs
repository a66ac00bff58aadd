//! What the access log and the metrics are told.

use std::path::PathBuf;

/// The access log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessLogSettings {
    /// Where lines go.
    pub output: LogOutput,
    /// How a line is written.
    pub format: AccessLogFormat,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum LogOutput {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// How an access-log line is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AccessLogFormat {
    /// Words and `key=value` pairs for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
