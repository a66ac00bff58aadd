//! `[server]`, `[log]` and `[access_log]`.

use std::path::Path;

use super::rate_limits::prefix;
use super::reader::{Fits, Misfit, Table, Value};
use super::units::{count, duration, memory_size, network_or_unix, pause};
use super::{LogSettings, MemoryBudget, ServerSettings};
use crate::layers::TrustSettings;
use crate::observe::{AccessLogFormat, AccessLogSettings, LogOutput, check_log_level};

pub(super) fn server(root: &mut Table<'_>) -> (ServerSettings, TrustSettings) {
    let (mut server, mut trust) = (ServerSettings::default(), TrustSettings::default());
    let Some(mut table) = root.table("server") else { return (server, trust) };
    server.workers = table.read("workers", |v| {
        let workers = v.integer("a number of threads", 1, 1_024)?;
        usize::try_from(workers).map_err(|_| Misfit::new("too many"))
    });
    table.set("max_connections", &mut server.connections.total, count);
    table.set("max_connections_per_client", &mut server.connections.per_client, count);
    table.set("client_ipv4_prefix", &mut server.connections.client.ipv4, |v| prefix(v, 32));
    table.set("client_ipv6_prefix", &mut server.connections.client.ipv6, |v| prefix(v, 128));
    table.set("max_in_flight", &mut server.max_in_flight, count);
    table.set("memory_budget", &mut server.memory_budget, memory_budget);
    table.set("lame_duck", &mut server.lame_duck, pause);
    table.set("drain_timeout", &mut server.drain_timeout, duration);
    table.set("reload_on_change", &mut server.reload_on_change, Value::boolean);
    let trusted = table.list("trusted_proxies", network_or_unix).unwrap_or_default();
    trust.unix = trusted.contains(&None);
    trust.proxies = trusted.into_iter().flatten().collect();
    table.finish(&[
        ("threads", "workers"),
        ("worker_processes", "workers"),
        ("shutdown_timeout", "drain_timeout"),
        ("shutdown_delay", "lame_duck"),
        ("drain_delay", "lame_duck"),
        ("watch", "reload_on_change"),
        ("memory", "memory_budget"),
        ("memory_limit", "memory_budget"),
        ("real_ip_from", "trusted_proxies"),
    ]);
    (server, trust)
}

/// The least budget: with less, a few connections of HTTP/2 would be all.
const LEAST_BUDGET: usize = 4 << 20;

fn memory_budget(value: &Value<'_>) -> Fits<MemoryBudget> {
    const WHAT: &str = "a size such as \"512MiB\", a share such as \"75%\", or \"unlimited\"";
    let text = if value.is_string() { value.string(WHAT)? } else { "" };
    if text == "unlimited" {
        return Ok(MemoryBudget::Unlimited);
    }
    if let Some(number) = text.strip_suffix('%') {
        let share = number.trim().parse().ok().filter(|share| (1..=100).contains(share));
        let misfit = || Misfit::new(format!("`{text}` is not a share from \"1%\" to \"100%\""));
        return share.map(MemoryBudget::Share).ok_or_else(misfit);
    }
    let wrong = |misfit: Misfit| misfit.hint(format!("expected {WHAT}"));
    let bytes = memory_size(value).map_err(wrong)?;
    if bytes < LEAST_BUDGET {
        return Err(Misfit::new("expected a budget of at least 4MiB")
            .hint("a share of the memory has a sign, \"75%\"; \"unlimited\" is none"));
    }
    Ok(MemoryBudget::Bytes(bytes))
}

pub(super) fn log(root: &mut Table<'_>) -> LogSettings {
    let mut log = LogSettings::default();
    let Some(mut table) = root.table("log") else { return log };
    table.set("level", &mut log.level, |v| {
        let text = v.string("a level such as \"info\", or a filter")?;
        check_log_level(text).map_err(Misfit::new)?;
        Ok(text.to_owned())
    });
    table.set("format", &mut log.json, |v| v.word(&[("text", false), ("json", true)]));
    table.finish(&[]);
    log
}

pub(super) fn access_log(root: &mut Table<'_>, base: &Path) -> AccessLogSettings {
    let mut log = AccessLogSettings::default();
    let Some(mut table) = root.table("access_log") else { return log };
    table.set("output", &mut log.output, |v| {
        Ok(match v.string("\"stdout\", \"stderr\", \"off\" or a path")? {
            "stdout" => LogOutput::Stdout,
            "stderr" => LogOutput::Stderr,
            "off" => LogOutput::Off,
            "" => return Err(Misfit::new("expected \"stdout\", \"stderr\", \"off\" or a path")),
            path => {
                let path = base.join(path);
                match path.parent() {
                    Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
                        return Err(Misfit::new(format!(
                            "there is no folder {}",
                            folder.display()
                        )));
                    }
                    _ => LogOutput::File(path),
                }
            }
        })
    });
    let formats = [("text", AccessLogFormat::Text), ("json", AccessLogFormat::Json)];
    table.set("format", &mut log.format, |v| v.word(&formats));
    table.finish(&[("path", "output"), ("file", "output")]);
    log
}
