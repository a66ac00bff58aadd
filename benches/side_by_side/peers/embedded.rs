//! The axum application of `benches/peers/embedded`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Told, built};

fn program() -> PathBuf {
    built("embedded")
}

/// Whether it is built, and of the sources as they are.
pub(super) fn is_current() -> bool {
    let modified = fs::metadata(program()).and_then(|program| program.modified());
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    modified.is_ok_and(|built| newest(&sources) < built)
}

/// When anything below a folder was changed last.
fn newest(folder: &Path) -> SystemTime {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let changed = entries.filter_map(|entry| {
        let about = entry.metadata().ok()?;
        if about.is_dir() { Some(newest(&entry.path())) } else { about.modified().ok() }
    });
    changed.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Told<'_> {
    /// The command that starts it, with one of its services.
    pub(super) fn embedded(&self, service: &str) -> Vec<String> {
        vec![
            program().display().to_string(),
            service.to_owned(),
            self.plain.to_string(),
            format!("http://{}", self.world.origin),
            self.setup.workers.to_string(),
        ]
    }
}
