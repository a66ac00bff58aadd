//! Finds the route of a request: the most specific host first, then the most
//! specific path, at a cost that does not grow with the number of routes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use foldhash::fast::RandomState;

use super::{HostPattern, Match, PathPattern};

/// What is looked up for each request. Whoever asks cannot put anything into it,
/// so that a quick hash does no harm.
type Map<T> = HashMap<String, T, RandomState>;

/// Routes by host and path.
#[derive(Clone, Debug)]
pub struct Table<T> {
    exact: Map<Paths<T>>,
    /// By the suffix, which begins with a dot.
    suffix: Map<Paths<T>>,
    any: Paths<T>,
}

/// The routes of one host.
#[derive(Clone, Debug)]
struct Paths<T> {
    exact: Map<T>,
    /// By the prefix without its closing slash; whether that slash is asked for.
    prefix: Map<Prefixes<T>>,
    /// How long prefixes are, longest first: what is worth looking up.
    lengths: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Prefixes<T> {
    /// `/a`: takes `/a` and all below.
    open: Option<T>,
    /// `/a/`: takes only what is below.
    below: Option<T>,
}

/// Two routes that take the same requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// Where the first stands.
    pub first: usize,
    /// Where the second stands.
    pub second: usize,
    /// What both take.
    pub what: String,
}

impl<T: Clone> Table<T> {
    /// Lays the routes out.
    ///
    /// # Errors
    ///
    /// Two routes take the same host and path.
    pub fn build(routes: Vec<(Match, T)>) -> Result<Self, Conflict> {
        let mut table =
            Self { exact: Map::default(), suffix: Map::default(), any: Paths::default() };
        let mut seen: HashMap<(Option<HostPattern>, PathPattern), usize> = HashMap::new();
        for (index, (matches, value)) in routes.into_iter().enumerate() {
            let Match { hosts, path } = matches;
            let hosts: Vec<Option<HostPattern>> =
                if hosts.is_empty() { vec![None] } else { hosts.into_iter().map(Some).collect() };
            for host in hosts {
                if let Some(first) = seen.insert((host.clone(), path.clone()), index) {
                    let what = describe(host.as_ref(), &path);
                    return Err(Conflict { first, second: index, what });
                }
                let paths = match host {
                    None => &mut table.any,
                    Some(HostPattern::Exact(host)) => table.exact.entry(host).or_default(),
                    Some(HostPattern::Suffix(host)) => table.suffix.entry(host).or_default(),
                };
                paths.insert(&path, value.clone());
            }
        }
        Ok(table)
    }
}

impl<T> Table<T> {
    /// The route of a request. `host` may carry a port.
    ///
    /// An exact host is looked at before a wildcard, a longer wildcard before a
    /// shorter, and any of them before routes without a host; within one, an
    /// exact path before a prefix, and a longer prefix before a shorter.
    #[must_use]
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<&T> {
        let by_host = host.filter(|_| !(self.exact.is_empty() && self.suffix.is_empty()));
        let found = by_host.and_then(|host| {
            let host = normalized(host);
            self.exact
                .get(&*host)
                .and_then(|paths| paths.find(path))
                .or_else(|| suffixes(&host).find_map(|s| self.suffix.get(s)?.find(path)))
        });
        found.or_else(|| self.any.find(path))
    }

    /// Whether any route names this host.
    #[must_use]
    pub fn knows_host(&self, host: &str) -> bool {
        let host = normalized(host);
        self.exact.contains_key(&*host) || suffixes(&host).any(|s| self.suffix.contains_key(s))
    }
}

impl<T> Paths<T> {
    fn insert(&mut self, path: &PathPattern, value: T) {
        match path {
            PathPattern::Exact(path) => {
                self.exact.insert(path.clone(), value);
            }
            PathPattern::Prefix(prefix) => {
                let bare = prefix.trim_end_matches('/');
                let entry = self.prefix.entry(bare.to_owned()).or_default();
                if bare.len() < prefix.len() && !bare.is_empty() {
                    entry.below = Some(value);
                } else {
                    entry.open = Some(value);
                }
                if !self.lengths.contains(&bare.len()) {
                    self.lengths.push(bare.len());
                    self.lengths.sort_unstable_by(|a, b| b.cmp(a));
                }
            }
        }
    }

    fn find(&self, path: &str) -> Option<&T> {
        if let Some(value) = self.exact.get(path) {
            return Some(value);
        }
        self.lengths.iter().find_map(|length| {
            let (prefix, rest) = path.split_at_checked(*length)?;
            if !(rest.is_empty() || rest.starts_with('/')) {
                return None;
            }
            let entry = self.prefix.get(prefix)?;
            let below = entry.below.as_ref().filter(|_| !rest.is_empty());
            below.or(entry.open.as_ref())
        })
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { exact: Map::default(), prefix: Map::default(), lengths: Vec::new() }
    }
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { open: None, below: None }
    }
}

/// A host in lower case, without its port and closing dot.
fn normalized(host: &str) -> Cow<'_, str> {
    let bare = super::without_port(host).trim_end_matches('.');
    // Clients send it in lower case.
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

/// `.b.c` and `.c` of `a.b.c`: longest first.
fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').map(|(at, _)| &host[at..])
}

fn describe(host: Option<&HostPattern>, path: &PathPattern) -> String {
    let host = match host {
        None => "any host".to_owned(),
        Some(host) => format!("host `{host}`"),
    };
    match path {
        PathPattern::Exact(path) => format!("{host} and the exact path `{path}`"),
        PathPattern::Prefix(path) => format!("{host} and the path prefix `{path}`"),
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, second, what } = self;
        write!(f, "route[{first}] and route[{second}] both take {what}")
    }
}

impl std::error::Error for Conflict {}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(hosts: &[&str], path: PathPattern) -> Match {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        Match { hosts, path }
    }

    fn prefix(path: &str) -> PathPattern {
        PathPattern::Prefix(path.to_owned())
    }

    fn exact(path: &str) -> PathPattern {
        PathPattern::Exact(path.to_owned())
    }

    fn table() -> Table<&'static str> {
        Table::build(vec![
            (route(&[], prefix("/")), "any"),
            (route(&[], exact("/health")), "health"),
            (route(&["a.test"], prefix("/")), "a"),
            (route(&["a.test"], prefix("/api")), "a-api"),
            (route(&["a.test"], prefix("/api/v2/")), "a-api-v2"),
            (route(&["a.test"], exact("/api")), "a-api-exact"),
            (route(&["*.a.test"], prefix("/")), "sub"),
            (route(&["*.x.a.test"], prefix("/only")), "subsub"),
        ])
        .unwrap()
    }

    #[test]
    fn the_most_specific_host_wins_and_then_the_longest_path() {
        let table = table();
        let cases = [
            ("a.test", "/", "a"),
            ("A.TEST.:8080", "/apix", "a"),
            ("a.test", "/api", "a-api-exact"),
            ("a.test", "/api/", "a-api"),
            ("a.test", "/api/v2", "a-api"),
            ("a.test", "/api/v2/x", "a-api-v2"),
            ("b.a.test", "/api", "sub"),
            ("c.b.a.test", "/", "sub"),
            ("y.x.a.test", "/only/x", "subsub"),
            ("y.x.a.test", "/else", "sub"),
            ("other.test", "/health", "health"),
            ("other.test", "/healthy", "any"),
            ("[::1]:80", "/", "any"),
        ];
        for (host, path, expected) in cases {
            assert_eq!(table.find(Some(host), path), Some(&expected), "{host}{path}");
        }
        assert_eq!(table.find(None, "/x"), Some(&"any"));
    }

    #[test]
    fn hosts_that_no_route_names_are_not_known() {
        let table = table();
        assert!(table.knows_host("a.test:443") && table.knows_host("b.A.test"));
        assert!(!table.knows_host("xa.test") && !table.knows_host("test"));
    }

    #[test]
    fn without_a_route_for_the_path_there_is_none() {
        let table = Table::build(vec![(route(&["a.test"], prefix("/x")), 1)]).unwrap();
        assert_eq!(table.find(Some("a.test"), "/y"), None);
        assert_eq!(table.find(Some("b.test"), "/x"), None);
    }

    #[test]
    fn two_routes_for_the_same_requests_are_a_conflict() {
        let conflict = Table::build(vec![
            (route(&["a.test", "b.test"], prefix("/x")), 1),
            (route(&["b.test"], prefix("/x")), 2),
        ])
        .unwrap_err();
        assert_eq!((conflict.first, conflict.second), (0, 1));
        assert!(conflict.to_string().contains("b.test"), "{conflict}");
    }
}
