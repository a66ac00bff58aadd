//! The command line: reads it, does as it says, and turns what went wrong into
//! a message and an exit code.

mod cache;
mod cache_told;
mod client;
mod demo;
mod health;
mod keys;
mod log;
mod operate;
mod password;
mod serve;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::app::{BindError, SetupError};
use cache::CacheCommand;
use keys::KeysCommand;
use operate::{Asked, OriginArguments};

/// Exit codes, after `sysexits.h`.
const EX_UNAVAILABLE: u8 = 69;
const EX_SOFTWARE: u8 = 70;
const EX_CONFIG: u8 = 78;

const EXAMPLES: &str = "\
Examples:
  tollgate demo                      try it: origins, certificate and all
  tollgate check -c config.toml      say everything that is wrong with a file
  tollgate run -c config.toml        serve
  tollgate keys new --name ci        make an API key and the line for it
  tollgate hash-password --user ann  make a line of an htpasswd file
  tollgate reload --plan             say what a reload would change
  tollgate reload --confirm 60s      reload, and roll back unless confirmed

Exit codes: 0 ended as asked, 1 unhealthy or refused, 2 wrong usage, 69 an
address cannot be bound or reached, 70 a fault of Tollgate's own, 78 the
configuration is wrong.";

/// A reverse proxy and API gateway.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what a configuration file says.
    Run {
        /// The file; default `config.toml`, else `/etc/tollgate/config.toml`.
        #[arg(short, long)]
        config: Option<PathBuf>,
    },
    /// Say whether a configuration file can be used, without serving.
    Check {
        /// The file; default `config.toml`, else `/etc/tollgate/config.toml`.
        #[arg(short, long)]
        config: Option<PathBuf>,
    },
    /// Serve the sample configuration with two built-in origins and a
    /// certificate made on the spot.
    Demo {
        /// Another file than `config.toml`; without one, the built-in sample.
        #[arg(short, long)]
        config: Option<PathBuf>,
    },
    /// Serve one of the demo's origins.
    DemoOrigin {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:6201")]
        address: SocketAddr,
        /// What it calls itself.
        #[arg(long, default_value = "demo-origin")]
        name: String,
    },
    /// Ask a running proxy's admin listener whether it is ready.
    Healthcheck {
        /// The proxy's configuration file, which names its admin address.
        #[arg(short, long, conflicts_with = "address")]
        config: Option<PathBuf>,
        /// The admin address itself.
        #[arg(long)]
        address: Option<SocketAddr>,
    },
    /// Have a running proxy read its configuration again.
    Reload {
        #[command(flatten)]
        asked: Asked,
        /// Say what would change, and change nothing.
        #[arg(long)]
        plan: bool,
        /// Roll back unless `tollgate confirm` comes within this time, such as `60s`.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        #[arg(conflicts_with = "plan")]
        confirm: Option<Duration>,
    },
    /// Keep the configuration that would be rolled back.
    Confirm {
        #[command(flatten)]
        asked: Asked,
    },
    /// Go back to the configuration before the last reload.
    Rollback {
        #[command(flatten)]
        asked: Asked,
    },
    /// Have the binary that now is there take over from a running one.
    Upgrade {
        #[command(flatten)]
        asked: Asked,
    },
    /// Say what runs, with which configuration.
    Status {
        #[command(flatten)]
        asked: Asked,
    },
    /// Show the upstreams of a running proxy and their origins.
    Upstreams {
        #[command(flatten)]
        asked: Asked,
    },
    /// Show an origin of a running proxy, or change its weight, drain or enable it.
    Origin {
        #[command(flatten)]
        asked: Asked,
        #[command(flatten)]
        arguments: OriginArguments,
    },
    /// Look into the cache of a running proxy, or purge it.
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Show how much a running proxy logs, or change it.
    LogLevel {
        #[command(flatten)]
        asked: Asked,
        /// A level such as `debug`, or a filter such as `info,tollgate::upstream=debug`.
        #[arg(conflicts_with = "reset")]
        level: Option<String>,
        /// Back to what is configured.
        #[arg(long)]
        reset: bool,
    },
    /// Turn a password, read from the terminal or from standard input, into what is stored
    /// of it.
    HashPassword {
        #[command(flatten)]
        asked: password::Asked,
    },
    /// Make API keys, list those of a file, or revoke them.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Turn an API key, read from standard input, into its digest for the
    /// configuration.
    HashKey {
        /// Make a key instead of reading one.
        #[arg(long)]
        generate: bool,
    },
}

/// Why a command ended before it was done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("{0}")]
    Unhealthy(String),
    /// Nobody answers at the admin address.
    #[error("{0}")]
    Unreachable(String),
    /// A running proxy says no.
    #[error("{0}")]
    Refused(String),
    /// A running proxy says that what was given to it is wrong.
    #[error("{0}")]
    Rejected(String),
    /// A running proxy says that its configuration is wrong: the report.
    #[error("{0}")]
    Misconfigured(String),
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        cause: std::io::Error,
    },
}

impl Failure {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Io { what, cause }
    }

    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Setup(_) | Self::Misconfigured(_) => EX_CONFIG,
            Self::Bind(_) | Self::Unreachable(_) => EX_UNAVAILABLE,
            Self::Unhealthy(_) | Self::Refused(_) | Self::Rejected(_) => 1,
            Self::Io { .. } => EX_SOFTWARE,
        })
    }
}

/// Reads the command line and does as it says.
#[must_use]
pub fn main() -> ExitCode {
    let done = run(Cli::parse().command);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", message(&failure));
            failure.code()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run { config } => serve::run(&config_path(config)),
        Command::Check { config } => serve::check(&config_path(config)),
        Command::Demo { config } => demo::run(config),
        Command::DemoOrigin { address, name } => demo::origin(address, &name),
        Command::Healthcheck { config, address } => health::check(config, address),
        Command::Reload { asked, plan, confirm } => operate::reload(asked, plan, confirm),
        Command::Confirm { asked } => operate::confirm(asked),
        Command::Rollback { asked } => operate::roll_back(asked),
        Command::Upgrade { asked } => operate::upgrade(asked),
        Command::Status { asked } => operate::status(asked),
        Command::Upstreams { asked } => operate::upstreams(asked),
        Command::Origin { asked, arguments } => operate::origin(asked, &arguments),
        Command::Cache { command } => cache::run(command),
        Command::LogLevel { asked, level, reset } => {
            operate::log_level(asked, level.as_deref(), reset)
        }
        Command::HashPassword { asked } => password::hash(&asked),
        Command::Keys { command } => keys::run(command),
        Command::HashKey { generate } => keys::hash(generate),
    }
}

/// The error with all its causes; a report on a configuration is shown as it is.
fn message(failure: &Failure) -> String {
    match failure {
        Failure::Setup(SetupError::Config(report)) => return report.to_string(),
        Failure::Misconfigured(report) => return report.clone(),
        _ => {}
    }
    let mut message = format!("tollgate: {failure}");
    let mut cause = std::error::Error::source(failure);
    while let Some(error) = cause {
        let _infallible = write!(message, ": {error}");
        cause = error.source();
    }
    message
}

fn config_path(given: Option<PathBuf>) -> PathBuf {
    let system = Path::new("/etc/tollgate/config.toml");
    given.unwrap_or_else(|| {
        let here = PathBuf::from("config.toml");
        if !here.exists() && system.exists() { system.to_owned() } else { here }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Commands in a document: lines of its code, and what it quotes in a sentence.
    fn commands(text: &str) -> Vec<&str> {
        let mut block = None;
        let mut commands = Vec::new();
        for line in text.lines() {
            match (line.strip_prefix("```"), block) {
                (Some(info), None) => block = Some(info),
                (Some(_), Some(_)) => block = None,
                // What is typed there stands beside what is answered.
                (None, Some("console")) => commands.extend(line.strip_prefix("$ ")),
                (None, Some("sh")) => commands.push(line),
                (None, Some(_)) => {}
                (None, None) => commands.extend(line.split('`').skip(1).step_by(2)),
            }
        }
        // The crate's line in a Cargo.toml begins alike.
        commands.retain(|line| line.starts_with("tollgate ") && !line.starts_with("tollgate ="));
        commands
    }

    #[test]
    fn the_documents_name_commands_that_there_are() {
        for document in ["README.md", "docs/operations.md", "docs/configuration.md"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
            let text = std::fs::read_to_string(path).unwrap();
            let commands = commands(&text);
            assert!(!commands.is_empty(), "{document}");
            for command in commands {
                let words = command.split('#').next().unwrap_or_default().split_whitespace();
                let named_only = words.clone().all(|word| !word.starts_with('-'));
                match Cli::try_parse_from(words).map_err(|error| error.kind()) {
                    Ok(_) | Err(ErrorKind::DisplayHelp) => {}
                    Err(
                        ErrorKind::MissingRequiredArgument
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                    ) if named_only => {}
                    Err(kind) => panic!("{document}: {command}: {kind}"),
                }
            }
        }
    }

    #[test]
    fn a_cause_is_told_with_what_it_caused() {
        let cause = std::io::Error::other("the disk is on fire");
        let failure = Failure::io("cannot start")(cause);
        assert_eq!(message(&failure), "tollgate: cannot start: the disk is on fire");
    }
}
