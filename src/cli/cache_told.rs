//! What a running proxy tells of its cache, for people.

use std::fmt::Write as _;

use serde_json::Value;

const OUTCOMES: [&str; 6] = ["hit", "stale", "revalidated", "collapsed", "miss", "pass"];

/// What became of the requests of each route, and of all, in a table.
pub(super) fn routes(told: &Value) -> String {
    let routes = list(&told["routes"]);
    if routes.is_empty() {
        return "\nno route has a cache".to_owned();
    }
    let mut rows = vec![head()];
    rows.extend(routes.iter().map(|route| row(&word(&route["route"]), route)));
    if routes.len() > 1 {
        let mut all = serde_json::json!({ "hit_ratio": told["hit_ratio"] });
        for outcome in OUTCOMES {
            let sum: u64 = routes.iter().filter_map(|route| route[outcome].as_u64()).sum();
            all[outcome] = sum.into();
        }
        rows.push(row("all", &all));
    }
    table(&rows)
}

fn head() -> Vec<String> {
    let names = ["route", "hit ratio"].into_iter().chain(OUTCOMES);
    names.map(str::to_owned).collect()
}

fn row(name: &str, counts: &Value) -> Vec<String> {
    let ratio = counts["hit_ratio"].as_f64();
    let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
    let count = |outcome| counts[outcome].as_u64().unwrap_or_default().to_string();
    [name.to_owned(), ratio].into_iter().chain(OUTCOMES.map(count)).collect()
}

/// Names on the left, numbers on the right of their columns.
fn table(rows: &[Vec<String>]) -> String {
    let longest = |at: usize| {
        let lengths = rows.iter().filter_map(|row| Some(row.get(at)?.chars().count()));
        lengths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..OUTCOMES.len() + 2).map(longest).collect();
    let mut text = String::new();
    for row in rows {
        text.push('\n');
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _infallible = match at {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
    }
    text
}

/// What is stored of a URL, or why nothing is.
pub(super) fn shown(told: &Value) -> String {
    let mut text = word(&told["url"]);
    if told["says"].is_string() {
        let _infallible = write!(text, "\n  {}", word(&told["says"]));
    }
    for route in list(&told["routes"]) {
        let _infallible = write!(text, "\n  route {}", word(&route["route"]));
        if route["says"].is_string() {
            let _infallible = write!(text, "\n    {}", word(&route["says"]));
        }
        for variant in list(&route["variants"]) {
            let place = variant["on"].as_str().unwrap_or("memory");
            let _infallible = write!(
                text,
                "\n    {}, {} bytes in {place}, {} s old: {}",
                variant["status"],
                variant["bytes"],
                variant["age_seconds"],
                word(&variant["says"]),
            );
            for by in list(&variant["selected_by"]) {
                let _infallible = write!(text, "\n      for {}: {}", word(&by[0]), word(&by[1]));
            }
            let tags: Vec<String> = list(&variant["tags"]).iter().map(word).collect();
            if !tags.is_empty() {
                let _infallible = write!(text, "\n      tags: {}", tags.join(" "));
            }
        }
    }
    text
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_routes_stand_in_a_table() {
        let route = |route: &str, hit: u64, ratio: Value| {
            json!({ "route": route, "hit": hit, "stale": 0, "revalidated": 1, "collapsed": 0,
                    "miss": 100, "pass": 7, "hit_ratio": ratio })
        };
        let told = json!({
            "hit_ratio": 0.75,
            "routes": [route("site", 300, json!(0.7506)), route("a-long-name", 0, Value::Null)],
        });
        let expected = "
route        hit ratio  hit  stale  revalidated  collapsed  miss  pass
site            75.1 %  300      0            1          0   100     7
a-long-name          -    0      0            1          0   100     7
all             75.0 %  300      0            2          0   200    14";
        assert_eq!(routes(&told), expected);
        assert_eq!(routes(&json!({})), "\nno route has a cache");
    }

    #[test]
    fn what_is_stored_reads_well() {
        let told = json!({
            "url": "http://a.test/", "says": null,
            "routes": [
                { "route": "one", "says": "not stored: x", "variants": [] },
                { "route": "two", "says": null, "variants": [{
                    "status": 200, "bytes": 4, "age_seconds": 3, "says": "fresh for 5 s",
                    "selected_by": [["accept", "text/html"]], "tags": ["a", "b"],
                }] },
            ],
        });
        let expected = "http://a.test/
  route one
    not stored: x
  route two
    200, 4 bytes in memory, 3 s old: fresh for 5 s
      for accept: text/html
      tags: a b";
        assert_eq!(shown(&told), expected);
        let nothing = json!({ "url": "u", "says": "nothing is known", "routes": [] });
        assert_eq!(shown(&nothing), "u\n  nothing is known");
    }
}
