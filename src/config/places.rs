//! Where things that have a name stand in the file that they were read from.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use super::reader::Table;

/// The tables whose things have names.
const NAMED: [&str; 3] = ["listener", "auth", "route"];

/// Where listeners, authenticators and routes stand, for what is found to be wrong with them
/// once they are built. Of settings that come from elsewhere it knows nothing.
///
/// It is the same as any other: what is said does not depend on where.
#[derive(Clone, Default)]
pub struct Places(HashMap<(&'static str, String), String>);

impl PartialEq for Places {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// Nor is it shown with what is said.
impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places(…)")
    }
}

impl Places {
    /// Those in the file at `path`, in which nothing is wrong.
    pub(super) fn of(mut root: Table<'_>, path: &Path) -> Self {
        let mut places = HashMap::new();
        let lines = root.problems().lines();
        for kind in NAMED {
            let items = root.value(kind).and_then(|value| value.items_if_list());
            for item in items.into_iter().flatten() {
                let Some(mut table) = item.table() else { continue };
                let place = table.problems().place_in(&lines, item.span.start);
                let place = format!("{}:{}:{}", path.display(), place.0, place.1);
                if let Some(name) = table.value("name").and_then(|name| name.string("").ok()) {
                    places.insert((kind, name.to_owned()), place);
                }
            }
        }
        Self(places)
    }

    /// What something is called in a sentence on what is wrong with it, behind its place if
    /// that is known. `kind` is what its table is called, such as `route`.
    pub(crate) fn named(&self, kind: &'static str, name: &str) -> String {
        match self.0.get(&(kind, name.to_owned())) {
            Some(place) => format!("{place}: {kind} `{name}`"),
            None => format!("{kind} `{name}`"),
        }
    }
}
