//! From a TOML file to [`Settings`].

mod settings;

pub use settings::{AdminSettings, LogSettings, RouteSettings, ServerSettings, Settings};

use std::path::{Path, PathBuf};

/// A configuration that cannot be used: every problem, with where it lies.
#[derive(Debug, thiserror::Error)]
#[error("{report}")]
pub struct LoadError {
    /// The problems as they are shown to a person.
    report: String,
    /// The file.
    pub path: PathBuf,
}

/// Reads a configuration file.
///
/// # Errors
///
/// Every problem found in the file.
pub fn load(path: &Path) -> Result<Settings, LoadError> {
    Err(LoadError { report: String::new(), path: path.to_path_buf() })
}

/// Reads a configuration from memory; `path` is the name it has in messages,
/// and relative paths in it are taken from that file's folder.
///
/// # Errors
///
/// Every problem found.
pub fn parse(path: &Path, text: &str) -> Result<Settings, LoadError> {
    let _ = text;
    Err(LoadError { report: String::new(), path: path.to_path_buf() })
}
