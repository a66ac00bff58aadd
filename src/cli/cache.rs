//! `tollgate cache`: what a running proxy has stored.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::Failure;
use super::cache_told as told;
use super::operate::{Asked, TELL, message};

/// What is asked of a cache.
#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Say how full it is.
    Stats {
        #[command(flatten)]
        asked: Asked,
    },
    /// Say what is stored of a URL, or why nothing is.
    Show {
        #[command(flatten)]
        asked: Asked,
        /// Such as `https://example.com/a`.
        url: String,
    },
    /// Forget what is stored.
    Purge {
        #[command(flatten)]
        asked: Asked,
        #[command(flatten)]
        what: What,
        /// Have it validated before it is used again, instead.
        #[arg(long)]
        soft: bool,
    },
}

/// What is to be forgotten.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct What {
    /// One URL with all its variants, such as `https://example.com/a`.
    url: Option<String>,
    /// Every URL that begins so.
    #[arg(long)]
    prefix: Option<String>,
    /// Whatever the origin calls so by `Surrogate-Key` or `Cache-Tag`.
    #[arg(long)]
    tag: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

pub(super) fn run(command: CacheCommand) -> Result<(), Failure> {
    match command {
        CacheCommand::Stats { asked } => {
            asked.asks(Method::GET, "/api/cache", None, TELL, |told| {
                let mut text = figures(told);
                text.push_str(&told::routes(told));
                text
            })
        }
        CacheCommand::Show { asked, url } => {
            let url = utf8_percent_encode(&url, NON_ALPHANUMERIC);
            asked.asks(Method::GET, &format!("/api/cache?url={url}"), None, TELL, told::shown)
        }
        CacheCommand::Purge { asked, what, soft } => {
            let What { url, prefix, tag, all } = what;
            let mut body = json!({ "soft": soft });
            for (name, value) in [("url", url), ("prefix", prefix), ("tag", tag)] {
                if let Some(value) = value {
                    body[name] = value.into();
                }
            }
            if all {
                body["all"] = true.into();
            }
            asked.asks(Method::POST, "/api/cache/purge", Some(&body), TELL, message)
        }
    }
}

fn figures(told: &Value) -> String {
    let fleet = if told["fleet"].is_object() { fleet(&told["fleet"]) } else { String::new() };
    let number = |name: &str| told[name].as_u64().unwrap_or_default();
    let mut text = format!(
        "{} of {} bytes, {} URLs, {} had to make room; {} requests under way that others may \
         share{fleet}",
        number("stored_bytes"),
        number("memory_bytes"),
        number("objects"),
        number("evicted"),
        number("in_flight"),
    );
    if let Some(disk) = told["disk"].as_object() {
        let number = |name: &str| disk.get(name).and_then(Value::as_u64).unwrap_or_default();
        let _infallible = write!(
            text,
            "\ndisk: {} of {} bytes, {} responses; {} served, {} written, {} failed, {} given up",
            number("stored_bytes"),
            number("capacity_bytes"),
            number("objects"),
            number("hits"),
            number("written"),
            number("failed"),
            number("given_up"),
        );
    }
    text
}

/// How it stands with the others, in a line of its own.
fn fleet(told: &Value) -> String {
    let text = |name: &str| told[name].as_str().unwrap_or("none").to_owned();
    let state = if told["connected"] == true {
        "connected".to_owned()
    } else {
        let seconds = told["lag_seconds"].as_f64().unwrap_or_default();
        format!("NOT CONNECTED for {seconds:.0} s ({})", text("trouble"))
    };
    let untold = told["untold"].as_str().map(|why| format!("; PURGES ARE NOT TOLD ({why})"));
    let untold = untold.unwrap_or_default();
    format!(
        "\nfleet: {state}{untold}; stream {}, last entry {}; purges: {} sent, {} waiting to be sent, {} of \
         others carried out",
        text("stream"),
        text("last_id"),
        told["sent"],
        told["waiting"],
        told["received"],
    )
}
