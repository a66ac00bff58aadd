//! The house stands on its floors: imports go down only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The floor of each module. A module may import those on lower floors, and
/// of its own floor only those that [`BESIDE`] names.
const FLOORS: [(&str, u32); 38] = [
    ("body", 0),
    ("budget", 0),
    ("context", 0),
    ("drain", 0),
    ("error", 0),
    ("handover", 0),
    ("hex", 0),
    ("http1", 0),
    ("pace", 0),
    ("pem", 0),
    ("proxy_protocol", 0),
    ("roots", 0),
    ("seat", 0),
    ("socket", 0),
    ("switch", 0),
    ("watch", 0),
    ("systemd", 0),
    ("observe", 1),
    ("respond", 1),
    ("signature", 1),
    ("upstream", 2),
    ("balance", 2),
    ("forward", 2),
    ("redis", 2),
    ("fetch", 2),
    ("layers", 3),
    ("route", 3),
    ("serve", 4),
    ("tls", 4),
    ("accept", 4),
    ("config", 5),
    ("admin", 5),
    ("app", 6),
    ("cli", 7),
    ("fuzz", 8),
    ("lib", 8),
    ("main", 8),
    ("tests", 8),
];

/// Which module of a floor may import which other of the same floor.
const BESIDE: [(&str, &str); 15] = [
    ("body", "error"),
    ("body", "pace"),
    ("budget", "seat"),
    ("context", "budget"),
    ("context", "error"),
    ("context", "pace"),
    ("http1", "body"),
    ("http1", "budget"),
    ("http1", "error"),
    ("roots", "pem"),
    ("balance", "upstream"),
    ("forward", "balance"),
    ("forward", "upstream"),
    ("accept", "serve"),
    ("accept", "tls"),
];

fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    assert!(found.len() > 40, "the sources were not found");
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The top-level module that a file belongs to.
fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(root()).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Code without comments and without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The top-level modules that code names by `crate::`, alone or in a group.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let names: Vec<String> = match part.strip_prefix('{') {
            None => vec![part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()],
            Some(group) => top_level_names(group),
        };
        found.extend(names);
    }
    found
}

/// `a`, `b` of `a, b::{c, d}};…`
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut name) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut name)),
            c if depth == 0 => name.push(c),
            _ => {}
        }
    }
    names.push(name);
    names
        .iter()
        .map(|name| name.trim().split("::").next().unwrap().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn imports_go_down_only() {
    let floors: BTreeMap<&str, u32> = FLOORS.into();
    let mut wrong = Vec::new();
    for path in sources() {
        let module = module_of(&path);
        let floor = *floors.get(&*module).unwrap_or_else(|| panic!("{module} has no floor"));
        for import in imports(&code(&path)) {
            let Some(below) = floors.get(&*import) else { continue };
            let beside = BESIDE.contains(&(&*module, &*import));
            if import != module && *below >= floor && !beside {
                wrong.push(format!("{}: {module} → {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_of_imports_would_see_a_wrong_one() {
    let group = "use crate::{app::Proxy, error::{Error, Kind}};\nlet x = crate::config::load();";
    let expected = ["app", "config", "error"].map(str::to_owned);
    assert_eq!(imports(group), BTreeSet::from(expected));
}

#[test]
fn layers_and_routes_do_not_know_each_other() {
    for path in sources() {
        let module = module_of(&path);
        let imports = imports(&code(&path));
        assert!(!(module == "route" && imports.contains("layers")), "{}", path.display());
        assert!(!(module == "layers" && imports.contains("route")), "{}", path.display());
    }
}

#[test]
fn files_are_of_a_size_to_be_read() {
    for path in sources() {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines", path.display());
    }
}

#[test]
fn connection_is_never_read_by_its_first_line_only() {
    for path in sources() {
        let code = code(&path);
        for single in ["get(header::CONNECTION)", "get(CONNECTION)", "[header::CONNECTION]"] {
            assert!(!code.contains(single), "{}: {single}", path.display());
        }
    }
}
