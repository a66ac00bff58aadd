//! The command line.

use std::process::ExitCode;

/// Reads the command line and does as it says.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
