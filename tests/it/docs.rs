//! What the documents say is so: commands, paths, metrics and configurations in
//! `docs/operations.md` are those that there are; of `docs/caching.md` the configurations.

use std::collections::BTreeSet;
use std::path::Path;

use tempfile::TempDir;

use crate::support::certs::Authority;
use crate::support::client::{Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

pub fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn operations() -> String {
    read("docs/operations.md")
}

/// The fenced blocks, each with what stands behind its fence.
pub fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut within = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(info) => {
                within = !within;
                if within {
                    blocks.push((info, String::new()));
                }
            }
            None if within => {
                if let Some((_, block)) = blocks.last_mut() {
                    block.push_str(line);
                    block.push('\n');
                }
            }
            None => {}
        }
    }
    assert!(!within, "a fence is open to the end");
    blocks
}

/// What stands between backticks, outside of fenced blocks.
fn spans(text: &str) -> Vec<&str> {
    let mut within = false;
    let prose = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        within ^= fence;
        !fence && !within
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The section under a heading, to the next of its level.
fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

/// A proxy with all that paths and metrics are about.
async fn running() -> (Origin, Running) {
    let origin = Origin::named("one").await;
    let dir = TempDir::new().unwrap();
    Authority::new().sign(dir.path(), "a", &["a.test"]);
    let more = "rate_limit = { rate = 5 }";
    let setup = Setup::forwarding_to(&origin).and(&format!(
        "[[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
         certificates = [{{ certificate = \"a.crt\", key = \"a.key\" }}]\n\
         [[route]]\nname = \"limited\"\npath = \"/limited\"\nupstream = \"origin\"\n{more}"
    ));
    let proxy = setup.server("reload_on_change = false").start_in(dir);
    (origin, proxy)
}

/// Requests in the table of the admin API: method and path.
fn requests(text: &str) -> Vec<(String, String)> {
    let rows = section(text, "The admin API").lines().filter_map(|line| {
        let (request, _) = line.strip_prefix("| `")?.split_once('`')?;
        let (method, path) = request.split_once(' ')?;
        path.starts_with('/').then(|| (method.to_owned(), path.to_owned()))
    });
    rows.collect()
}

#[tokio::test]
async fn every_path_of_the_admin_api_is_there_and_none_is_left_out() {
    within(async {
        let (origin, proxy) = running().await;
        let name = origin.to_string().replace("http://", "");
        let text = operations();
        let requests = requests(&text);
        assert!(requests.len() > 10, "{requests:?}");
        for (method, path) in &requests {
            // What it does is tested elsewhere; here it is asked in vain.
            let path = path
                .replace("{upstream}", "origin")
                .replace("{origin}", &name)
                .replace("{route}", "limited");
            let mut client = Raw::connect(proxy.admin).await;
            let head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 1";
            client.send(format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n[")).await;
            let answer = client.answer().await;
            let wanted = if method == "GET" { 200 } else { 400 };
            // A log that is the test's has no level to be asked for.
            let there = [wanted, 501].contains(&answer.status);
            assert!(there, "{method} {path}: {} {}", answer.status, answer.text());
        }
        let index = ask(proxy.admin, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(index.status, 200);
        let index = index.text();
        assert!(index.contains("<dt>"), "{index}");
        for line in index.lines().filter(|line| line.starts_with("<dt>")) {
            let (line, _purpose) = line.split_once("<dd>").unwrap();
            let plain: String = line.split(['<', '>']).step_by(2).collect::<Vec<_>>().concat();
            let (methods, path) = plain.split_once(" /").unwrap();
            let path = path.split_whitespace().next().unwrap();
            let path = ["/api", path.trim_start_matches("api")].concat();
            for method in methods.split(", ") {
                let told =
                    requests.iter().any(|(m, p)| m == method && path.starts_with(p.as_str()));
                assert!(told, "{method} {path} is not in the table");
            }
        }
    })
    .await;
}

/// A metric's name without what its kind adds to it.
fn base(name: &str) -> &str {
    let added = ["_total", "_bucket", "_count", "_sum", "_info"];
    added.iter().find_map(|added| name.strip_suffix(added)).unwrap_or(name)
}

#[tokio::test]
async fn every_metric_that_is_named_is_told() {
    within(async {
        let (_origin, proxy) = running().await;
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answer = ask(proxy.admin, request).await;
        assert_eq!(answer.status, 200);
        let rendered = answer.text();
        let told: BTreeSet<&str> = rendered
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
            .collect();
        // Those that have counted nothing yet are registered all the same.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/observe");
        let sources: String = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap_or_default())
            .collect();
        let registered = |name: &str| {
            let name = name.trim_start_matches("tollgate_");
            let plain = name.trim_end_matches("_seconds").trim_end_matches("_bytes");
            [name, plain].iter().any(|name| sources.contains(&format!("\"{name}\"")))
        };
        for document in [
            "docs/operations.md",
            "docs/configuration.md",
            "docs/compression.md",
            "docs/rate-limits.md",
        ] {
            let text = read(document);
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let named: BTreeSet<&str> =
                words.filter(|word| word.starts_with("tollgate_")).collect();
            assert!(!named.is_empty());
            for name in named {
                let there = told.contains(name) || told.contains(base(name));
                assert!(there || registered(base(name)), "{document}: there is no {name}");
            }
        }
    })
    .await;
}

#[test]
fn every_configuration_is_one() {
    const LISTENER: &str = "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n";
    const ROUTE: &str = "[[route]]\nname = \"all\"\npath = \"/else\"\nrespond = {}\n";
    for document in ["docs/operations.md", "docs/caching.md", "docs/compression.md"] {
        let mut parsed = 0;
        for (info, block) in blocks(&read(document)) {
            let needs = |table: &str| info == "toml fragment" && !block.contains(table);
            let toml = match info {
                "toml" | "toml fragment" => format!(
                    "{block}{}{}",
                    if needs("[[listener]]") { LISTENER } else { "" },
                    if needs("[[route]]") { ROUTE } else { "" }
                ),
                _ => continue,
            };
            let path = Path::new("config.toml");
            tollgate::config::parse(path, &toml).unwrap_or_else(|error| panic!("{toml}\n{error}"));
            parsed += 1;
        }
        assert!(parsed > 0, "{document}");
    }
}

#[test]
fn links_lead_somewhere() {
    let text = operations();
    let anchors: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut links = 0;
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        links += 1;
        match link.strip_prefix('#') {
            Some(anchor) => assert!(anchors.contains(anchor), "there is no heading #{anchor}"),
            None if link.starts_with("http") => {}
            None => {
                let file = link.split('#').next().unwrap_or_default();
                assert!(folder.join(file).exists(), "there is no {link}");
            }
        }
    }
    assert!(links > 5);
}

#[test]
fn what_a_change_at_run_time_says_of_its_end_is_what_stands_there() {
    let text = operations();
    assert!(text.contains(tollgate::admin::ORIGIN_PERSISTS));
    // The keys that end them, too.
    for key in ["log.level", "rate_limit.dry_run"] {
        assert!(spans(&text).contains(&key), "{key}");
    }
}
