//! Whether people who are sent to log in can come back.

use crate::accept::ListenerSettings;
use crate::config::RouteSettings;
use crate::config::reader::Table;
use crate::layers::{AuthSettings, AuthenticatorSettings, SchemeSettings};
use crate::route::{self, HostPattern, Match, PathPattern};

/// The routes of one listener.
struct Here<'a> {
    routes: Vec<&'a RouteSettings>,
    /// By the place in [`Here::routes`].
    table: route::Table<usize>,
    /// A host of each kind that routes tell apart; `None` is one that none of them names.
    hosts: Vec<Option<String>>,
}

/// Complains of routes that ask for a login which nobody can come back from: what comes to
/// the paths of the scheme has to take a route that asks for it, at the same hosts.
pub(in crate::config) fn check_routes(
    root: &mut Table<'_>,
    authenticators: &[AuthenticatorSettings],
    routes: &[RouteSettings],
    listeners: &[ListenerSettings],
) {
    let logins = authenticators.iter().filter_map(|one| match &one.scheme {
        SchemeSettings::Oidc(oidc) => Some((one, oidc)),
        _ => None,
    });
    let logins: Vec<_> = logins.collect();
    // One that is wrong itself may be the one that takes such a path.
    let written = root.value("route").and_then(|routes| routes.items_if_list());
    if logins.is_empty() || written.is_some_and(|written| written.len() != routes.len()) {
        return;
    }
    let all: Vec<Here<'_>> =
        listeners.iter().filter_map(|listener| Here::at(&listener.name, routes)).collect();
    for (one, oidc) in logins {
        let asks = |route: &RouteSettings| {
            let mut names = route.auth.iter().flat_map(AuthSettings::names);
            names.any(|name| *name == one.name)
        };
        for route in routes.iter().filter(|route| asks(route)) {
            for (key, path) in [("callback", &oidc.callback), ("logout", &oidc.logout)] {
                let mut strays = all.iter().map(|here| here.astray(route, path, asks));
                let Some(taker) = strays.find_map(|stray| stray) else { continue };
                let instead = match taker {
                    Some(taker) => format!("the route `{taker}` takes the path `{path}`"),
                    None => format!("no route for its hosts has the path `{path}`"),
                };
                let (route, name) = (&route.name, &one.name);
                let message = format!(
                    "the route `{route}` asks for a login by `{name}`, and {instead}: nobody \
                     comes back"
                );
                let hint = format!("set `{key}` in `[auth.oidc]` to a path that the route takes");
                root.complain(message, Some(hint));
            }
        }
    }
}

impl<'a> Here<'a> {
    /// `None` if two of them take the same requests, of which others complain.
    fn at(listener: &str, routes: &'a [RouteSettings]) -> Option<Self> {
        let takes = |route: &&RouteSettings| {
            route.listeners.is_empty() || route.listeners.iter().any(|name| name == listener)
        };
        let routes: Vec<_> = routes.iter().filter(takes).collect();
        let entries = routes.iter().enumerate();
        let table =
            route::Table::build(entries.map(|(at, one)| (one.matches.clone(), at)).collect());
        let named = routes.iter().flat_map(|route| &route.matches.hosts);
        let mut hosts: Vec<Option<String>> = named.map(|host| Some(host_of(host))).collect();
        hosts.push(None);
        hosts.sort_unstable();
        hosts.dedup();
        Some(Self { table: table.ok()?, hosts, routes })
    }

    /// Which route takes `path` (none, perhaps), if that is one that does not ask, at any of
    /// the hosts from which people come to `route`.
    fn astray(
        &self,
        route: &RouteSettings,
        path: &str,
        asks: impl Fn(&RouteSettings) -> bool,
    ) -> Option<Option<&'a str>> {
        let place = self.routes.iter().position(|one| one.name == route.name)?;
        let samples = samples(&route.matches.path);
        self.hosts.iter().filter(|host| may_be(host.as_deref(), &route.matches)).find_map(|host| {
            let host = host.as_deref();
            let comes = samples.iter().any(|one| self.table.find(host, one) == Some(&place));
            let taker = self.table.find(host, path).and_then(|at| self.routes.get(*at).copied());
            let is_lost = comes && !taker.is_some_and(&asks);
            is_lost.then(|| taker.map(|taker| &*taker.name))
        })
    }
}

/// A host that this stands for.
fn host_of(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.clone(),
        // No label that anybody would give a host, so that no route names it.
        HostPattern::Suffix(suffix) => format!("_any_{suffix}"),
    }
}

/// Whether a route may take requests for this host.
fn may_be(host: Option<&str>, matches: &Match) -> bool {
    let fits = |pattern: &HostPattern| match (pattern, host) {
        (HostPattern::Exact(name), Some(host)) => name == host,
        (HostPattern::Suffix(suffix), Some(host)) => host.ends_with(&**suffix),
        (_, None) => false,
    };
    matches.hosts.is_empty() || matches.hosts.iter().any(fits)
}

/// Paths of which a route takes one, if it takes any.
fn samples(path: &PathPattern) -> Vec<String> {
    match path {
        PathPattern::Exact(path) => vec![path.clone()],
        PathPattern::Prefix(path) => {
            vec![path.clone(), format!("{}/_any_", path.trim_end_matches('/'))]
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    /// With two listeners, `a` and `b`.
    fn problems(routes: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
        let toml = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"b\"\naddress = \"127.0.0.1:0\"\n\
             [[auth]]\nname = \"people\"\n[auth.oidc]\nissuer = \"https://id.test\"\n\
             client_id = \"a\"\ncookie_secret = \"file:secret\"\ncallback = \"/app/back\"\n\
             logout = \"/app/out\"\n{routes}"
        );
        let parsed = parse(&dir.path().join("a.toml"), &toml);
        parsed.map_or_else(|error| error.to_string(), |_| String::new())
    }

    /// A route that asks for a login.
    fn asking(name: &str, more: &str) -> String {
        open(name, &format!("auth = \"people\"\n{more}"))
    }

    fn open(name: &str, more: &str) -> String {
        format!("[[route]]\nname = \"{name}\"\nrespond = {{}}\n{more}\n")
    }

    #[test]
    fn whoever_is_sent_to_log_in_can_come_back() {
        let app = asking("app", "path = \"/app\"");
        for (routes, complaint) in [
            (app.clone(), ""),
            (app.clone() + &asking("b", "path = \"/admin\""), ""),
            (asking("b", "path = \"/admin\""), "no route for its hosts has the path `/app/back`"),
            (asking("b", "path = \"/app/b\""), "the route `b` asks"),
            (
                asking("a", "path = \"/app\"\nhosts = [\"a.test\"]")
                    + &asking("b", "path = \"/b\"\nhosts = [\"b.test\"]"),
                "the route `b` asks",
            ),
            (
                asking("a", "path = \"/app\"\nhosts = [\"a.test\", \"b.test\"]")
                    + &asking("b", "path = \"/b\"\nhosts = [\"b.test\"]"),
                "",
            ),
            // A longer path is chosen first.
            (
                app.clone() + &open("other", "path = \"/app/back\""),
                "`other` takes the path `/app/back`",
            ),
            (
                app.clone() + &open("other", "path_exact = \"/app/out\""),
                "`other` takes the path `/app/out`",
            ),
            (app.clone() + &open("other", "path = \"/app/backs\""), ""),
            // A named host is chosen first, and only there.
            (
                asking("all", "path = \"/\"") + &open("c", "path = \"/app\"\nhosts = [\"c.test\"]"),
                "`c` takes the path `/app/back`",
            ),
            (app + &open("c", "hosts = [\"c.test\"]"), ""),
            (
                asking("all", "hosts = [\"*.test\"]")
                    + &open("c", "path = \"/app/back\"\nhosts = [\"*.c.test\"]"),
                "`c` takes the path `/app/back`",
            ),
            (
                asking("all", "hosts = [\"*.test\"]")
                    + &open("c", "path = \"/app/back\"\nhosts = [\"*.example\"]"),
                "",
            ),
            // On its own listeners, each of them.
            (
                asking("a", "path = \"/app\"\nlisteners = [\"a\"]")
                    + &asking("b", "path = \"/x\"\nlisteners = [\"b\"]"),
                "the route `b` asks",
            ),
            (
                asking("a", "path = \"/app\"\nlisteners = [\"a\"]")
                    + &open("b", "path = \"/app/back\"\nlisteners = [\"b\"]"),
                "",
            ),
        ] {
            let told = problems(&routes);
            assert_eq!(told.is_empty(), complaint.is_empty(), "{routes}\n{told}");
            assert!(told.contains(complaint), "{routes}\n{told}");
        }
    }
}
