//! The commands that ask a running proxy for something: `reload`, `status` and their
//! like.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::Failure;
use super::client::{Admin, Answered};

/// How long what is only told may take.
pub(super) const TELL: Duration = Duration::from_secs(10);

/// How long a reload may take: it reads every certificate.
const RELOAD: Duration = Duration::from_secs(60);

/// How long an upgrade may take: the successor has to get ready.
const UPGRADE: Duration = Duration::from_secs(300);

/// Which running proxy is asked.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// The proxy's configuration file, which names its admin address and token.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// The admin address itself.
    #[arg(long)]
    address: Option<SocketAddr>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// What is to become of an origin.
#[derive(Debug, Args)]
pub(super) struct OriginArguments {
    /// The upstream's name.
    upstream: String,
    /// The origin, as `tollgate upstreams` shows it.
    origin: String,
    /// The share it gets, in the place of the configured one.
    #[arg(long, conflicts_with = "reset_weight")]
    weight: Option<u32>,
    /// Back to the configured share.
    #[arg(long)]
    reset_weight: bool,
    /// Send nothing new there; what is under way is finished.
    #[arg(long, conflicts_with = "enable")]
    drain: bool,
    /// Undo `--drain`.
    #[arg(long)]
    enable: bool,
}

pub(super) fn reload(asked: Asked, plan: bool, confirm: Option<Duration>) -> Result<(), Failure> {
    let mut body = json!({ "plan": plan });
    if let Some(confirm) = confirm {
        body["confirm"] = humantime::format_duration(confirm).to_string().into();
    }
    asked.configures(Method::POST, "/api/reload", Some(&body), RELOAD, |told| {
        let mut text = told["text"].as_str().unwrap_or_default().trim_end().to_owned();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&message(told));
        text
    })
}

pub(super) fn confirm(asked: Asked) -> Result<(), Failure> {
    asked.asks(Method::POST, "/api/reload/confirm", None, TELL, message)
}

pub(super) fn roll_back(asked: Asked) -> Result<(), Failure> {
    asked.configures(Method::POST, "/api/reload/rollback", None, RELOAD, message)
}

pub(super) fn upgrade(asked: Asked) -> Result<(), Failure> {
    asked.asks(Method::POST, "/api/upgrade", None, UPGRADE, message)
}

pub(super) fn status(asked: Asked) -> Result<(), Failure> {
    asked.asks(Method::GET, "/api/status", None, TELL, status_text)
}

pub(super) fn upstreams(asked: Asked) -> Result<(), Failure> {
    asked.asks(Method::GET, "/api/upstreams", None, TELL, upstreams_text)
}

pub(super) fn origin(asked: Asked, arguments: &OriginArguments) -> Result<(), Failure> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let (upstream, origin) = (encoded(&arguments.upstream), encoded(&arguments.origin));
    let path = format!("/api/upstreams/{upstream}/origins/{origin}");
    let mut change = json!({});
    if let Some(weight) = arguments.weight {
        change["weight"] = weight.into();
    }
    if arguments.reset_weight {
        change["reset_weight"] = true.into();
    }
    if arguments.drain || arguments.enable {
        change["drained"] = arguments.drain.into();
    }
    if change == json!({}) {
        return asked.asks(Method::GET, &path, None, TELL, origin_text);
    }
    asked.asks(Method::PATCH, &path, Some(&change), TELL, changed)
}

pub(super) fn log_level(asked: Asked, level: Option<&str>, reset: bool) -> Result<(), Failure> {
    let change = match (level, reset) {
        (Some(level), _) => json!({ "level": level }),
        (None, true) => json!({ "reset": true }),
        (None, false) => {
            return asked.asks(Method::GET, "/api/log-level", None, TELL, |told| {
                told["level"].as_str().unwrap_or_default().to_owned()
            });
        }
    };
    asked.asks(Method::PUT, "/api/log-level", Some(&change), TELL, changed)
}

impl Asked {
    /// Asks, and prints what is told.
    pub(super) fn asks(
        self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
        text: impl FnOnce(&Value) -> String,
    ) -> Result<(), Failure> {
        let Self { config, address, json } = self;
        let admin = Admin::find(config, address)?;
        let answer = admin.ask(method, path, body, patience)?;
        if !answer.status.is_success() {
            if json {
                println!("{}", answer.body.trim_end());
            }
            return Err(refused(&admin, &answer));
        }
        if json {
            println!("{}", answer.body.trim_end());
            return Ok(());
        }
        let told = serde_json::from_str(&answer.body).map_err(|error| {
            let address = admin.address();
            Failure::Refused(format!("what answers at {address} is no Tollgate: {error}"))
        })?;
        println!("{}", text(&told));
        Ok(())
    }

    /// The same for what reads the configuration, which may be wrong.
    fn configures(
        self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
        text: impl FnOnce(&Value) -> String,
    ) -> Result<(), Failure> {
        self.asks(method, path, body, patience, text).map_err(|failure| match failure {
            Failure::Rejected(report) => Failure::Misconfigured(format!(
                "{}\n\nNothing has changed: the configuration in force stays.",
                report.trim_end()
            )),
            other => other,
        })
    }
}

/// Why nothing came of it, and what may help.
fn refused(admin: &Admin, answer: &Answered) -> Failure {
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or_else(|| answer.body.trim());
    match answer.status {
        StatusCode::UNPROCESSABLE_ENTITY => Failure::Rejected(detail.to_owned()),
        StatusCode::UNAUTHORIZED => Failure::Refused(format!(
            "the admin listener at {} asks for its token\n\
             It is taken from TOLLGATE_ADMIN_TOKEN, or from where `token` in [admin] says.",
            admin.address()
        )),
        StatusCode::NOT_FOUND if problem["code"].is_null() => Failure::Refused(format!(
            "what answers at {} is no Tollgate: {}",
            admin.address(),
            answer.status
        )),
        _ => Failure::Refused(detail.to_owned()),
    }
}

pub(super) fn message(told: &Value) -> String {
    told["message"].as_str().unwrap_or("Done.").to_owned()
}

/// A change at run time, and how long it lasts.
fn changed(told: &Value) -> String {
    let lasts = told["persists"].as_str().unwrap_or_default();
    format!("{}\nIt lasts {lasts}.", message(told))
}

fn upstreams_text(told: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut lines = Vec::new();
    for upstream in list(&told["upstreams"]) {
        lines.push(upstream["name"].as_str().unwrap_or_default().to_owned());
        lines.extend(
            list(&upstream["origins"]).iter().map(|origin| format!("  {}", origin_text(origin))),
        );
    }
    if lines.is_empty() { "no upstreams".to_owned() } else { lines.join("\n") }
}

/// An origin in one line.
fn origin_text(origin: &Value) -> String {
    let number = |key: &str| origin[key].as_u64().unwrap_or_default();
    let (weight, configured) = (number("weight"), number("configured_weight"));
    let mut text = format!("{}: weight {weight}", origin["name"].as_str().unwrap_or_default());
    if weight != configured {
        let _infallible = write!(text, " (configured: {configured})");
    }
    let drained = origin["drained"] == true;
    let health = match origin["reason"].as_str() {
        _ if origin["healthy"] == true => "fit".to_owned(),
        Some(reason) => format!("unfit ({reason})"),
        None => "unfit".to_owned(),
    };
    let drained = if drained { ", drained" } else { "" };
    let open = number("open_connections");
    let _infallible = write!(text, ", {health}{drained}, connections open: {open}");
    text
}

fn status_text(told: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    };
    let uptime = Duration::from_secs(told["uptime_seconds"].as_u64().unwrap_or_default());
    let mut text = format!(
        "tollgate {}, process {}: {}, up for {}\n",
        word(&told["version"]),
        word(&told["pid"]),
        word(&told["state"]),
        humantime::format_duration(uptime),
    );
    let mut line = |name: &str, value: String| {
        let _infallible = writeln!(text, "{name:<15} {value}");
    };
    line("configuration", word(&told["config_file"]));
    let loaded = word(&told["loaded_at"]);
    line("generation", format!("{}, in force since {loaded}", word(&told["generation"])));
    let last = &told["last_reload"];
    if !last.is_null() {
        let (at, trigger) = (word(&last["at"]), word(&last["trigger"]));
        line("last reload", format!("{} ({trigger}, {at})", word(&last["result"])));
    }
    let pending = &told["pending_confirm"];
    if !pending.is_null() {
        let left = word(&pending["seconds_left"]);
        line("to be confirmed", format!("within {left} s, or it is rolled back"));
    }
    if let Some(restart) = told["needs_restart"].as_array().filter(|keys| !keys.is_empty()) {
        let keys = restart.iter().map(word).collect::<Vec<_>>().join(", ");
        line("needs a restart", keys);
    }
    if let Some(report) = last["report"].as_str() {
        let _infallible = write!(text, "\n{}", report.trim_end());
    }
    text.trim_end().to_owned()
}
