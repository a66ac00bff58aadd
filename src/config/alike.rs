//! What decides what a stored response means.

use super::RouteSettings;
use crate::layers::HeaderChanges;
use crate::route::{Action, ForwardAction, OriginHost, PathPattern};

impl RouteSettings {
    /// Whether responses that are stored for this route are what `other` would have
    /// from its origins for the same requests.
    #[must_use]
    pub fn stores_alike(&self, other: &Self) -> bool {
        let key =
            |of: &Self| of.cache.as_ref().map(|cache| (cache.key.clone(), cache.store_set_cookie));
        self.name == other.name
            && key(self) == key(other)
            && self.origin_requests() == other.origin_requests()
    }

    /// What is done to requests on their way to the origin, as bytes that are the same
    /// for the same and in every process: what is on disk is found by them.
    pub(crate) fn origin_requests(&self) -> Vec<u8> {
        let mut said = Vec::new();
        let mut say = |text: &[u8]| {
            said.extend((text.len() as u64).to_le_bytes());
            said.extend(text);
        };
        match &self.action {
            Action::Forward(ForwardAction { upstream, rewrite_prefix, host, upgrades: _ }) => {
                say(b"forward");
                say(upstream.as_bytes());
                if let Some(with) = rewrite_prefix {
                    // What it is put in the place of is a matter of the match.
                    let (PathPattern::Exact(path) | PathPattern::Prefix(path)) = &self.matches.path;
                    for text in ["prefix", path, with] {
                        say(text.as_bytes());
                    }
                }
                let host = match host {
                    OriginHost::Keep => ["host", ""],
                    OriginHost::Origin => ["host of the origin", ""],
                    OriginHost::Set(host) => ["host to be", host],
                };
                host.into_iter().for_each(|text| say(text.as_bytes()));
            }
            // Nothing of these comes from an origin.
            Action::Redirect(_) | Action::Respond(_) => say(b"answer"),
        }
        if let Some(compression) = &self.compression {
            // Otherwise what is stored would go on in the old codings.
            say(format!("{compression:?}").as_bytes());
        }
        let HeaderChanges { remove, set, append } = &self.headers.request;
        for name in remove {
            say(b"remove");
            say(name.as_str().as_bytes());
        }
        for (what, fields) in [("set", set), ("append", append)] {
            for (name, value) in fields {
                say(what.as_bytes());
                say(name.as_str().as_bytes());
                say(value.as_bytes());
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Match;

    fn forwarding(change: impl FnOnce(&mut RouteSettings, &mut ForwardAction)) -> RouteSettings {
        let mut forward = ForwardAction::new("site");
        let action = Action::Forward(forward.clone());
        let mut route = RouteSettings::new("site", Match::default(), action);
        change(&mut route, &mut forward);
        route.action = Action::Forward(forward);
        route
    }

    #[test]
    fn whatever_changes_the_origins_answer_begins_anew() {
        let before = forwarding(|_, _| {});
        let alike = |change: fn(&mut RouteSettings, &mut ForwardAction)| {
            before.stores_alike(&forwarding(change))
        };
        let set = |route: &mut RouteSettings, value: &'static str| {
            let field = (http::header::ACCEPT, http::HeaderValue::from_static(value));
            route.headers.request.set = vec![field];
        };
        assert!(alike(|_, _| {}));
        assert!(alike(|route, _| route.matches.path = PathPattern::Prefix("/a".to_owned())));
        assert!(alike(|_, forward| forward.upgrades.clear()));
        assert!(!alike(|route, _| route.name = "other".to_owned()));
        assert!(!alike(|_, forward| forward.upstream = "other".to_owned()));
        assert!(!alike(|_, forward| forward.host = OriginHost::Origin));
        assert!(!alike(|_, forward| forward.host = OriginHost::Set("a".to_owned())));
        assert!(!alike(|_, forward| forward.rewrite_prefix = Some(String::new())));
        assert!(!forwarding(|route, _| set(route, "a")).stores_alike(&forwarding(|route, _| {
            set(route, "b");
        })));
    }

    #[test]
    fn a_prefix_that_is_put_in_the_place_of_another_is_something_else() {
        let replacing = |path: &str| {
            forwarding(|route, forward| {
                route.matches.path = PathPattern::Prefix(path.to_owned());
                forward.rewrite_prefix = Some("/new".to_owned());
            })
        };
        assert!(replacing("/a").stores_alike(&replacing("/a")));
        assert!(!replacing("/a").stores_alike(&replacing("/")));
    }
}
