//! The keys of a table with what they say, to be compared.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::layers::KeyDigest;

/// The keys of a table, spelled as a file has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    key: String,
    /// The key or table with which this one comes and goes.
    group: Option<String>,
    value: Value,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    One(String),
    List(Vec<String>),
    /// Of which only the names are shown.
    Pairs(Vec<(String, Hidden)>),
    /// Of things that are compared one by one elsewhere, only their order.
    Order(Vec<String>),
    Hidden(Hidden),
}

/// What nobody is shown, for it may be a secret or long.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Hidden {
    Bytes(Vec<u8>),
    Digest(KeyDigest),
}

impl Hidden {
    /// This text, by its digest.
    pub(super) fn of(text: impl AsRef<[u8]>) -> Self {
        Self::Digest(KeyDigest::of(text.as_ref()))
    }
}

/// A key that says something else.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct KeyChange {
    /// The key, within the table that it is said of, such as `timeouts.connect`.
    pub key: String,
    /// What became of it.
    #[serde(flatten)]
    pub change: Difference,
}

/// What became of a key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Difference {
    /// It has another value; `None` is none.
    Value {
        /// The value before.
        from: Option<String>,
        /// The value now.
        to: Option<String>,
    },
    /// A list has other members.
    Members {
        /// Those it had not.
        added: Vec<String>,
        /// Those it has no longer.
        removed: Vec<String>,
        /// Those that stand for something else, which is not shown.
        changed: Vec<String>,
    },
    /// A list has the same members in another order.
    Reordered,
    /// It is there now.
    Added,
    /// It is there no longer.
    Removed,
    /// It has another value, which is not shown.
    Changed,
}

impl Keys {
    #[expect(clippy::needless_pass_by_value, reason = "most values are made at the call")]
    pub(super) fn one(&mut self, key: &str, value: impl ToString) {
        self.push(key, Value::One(value.to_string()));
    }

    pub(super) fn list<T: ToString>(&mut self, key: &str, members: impl IntoIterator<Item = T>) {
        self.push(key, Value::List(strings(members)));
    }

    pub(super) fn pairs<N: ToString>(
        &mut self,
        key: &str,
        pairs: impl IntoIterator<Item = (N, Hidden)>,
    ) {
        let pairs = pairs.into_iter().map(|(name, hidden)| (name.to_string(), hidden));
        self.push(key, Value::Pairs(pairs.collect()));
    }

    pub(super) fn order<T: ToString>(&mut self, key: &str, members: impl IntoIterator<Item = T>) {
        self.push(key, Value::Order(strings(members)));
    }

    pub(super) fn hidden(&mut self, key: &str, value: impl AsRef<[u8]>) {
        self.push(key, Value::Hidden(Hidden::Bytes(value.as_ref().to_vec())));
    }

    /// The keys of a table within this one.
    pub(super) fn table(&mut self, name: &str, keys: Self) {
        self.0.extend(keys.0.into_iter().map(|Entry { key, value, .. }| Entry {
            key: format!("{name}.{key}"),
            group: Some(name.to_owned()),
            value,
        }));
    }

    /// Keys of this table that come and go with one of them, `head`.
    pub(super) fn with(&mut self, head: &'static str, keys: Self) {
        let group = || Some(head.to_owned());
        let grouped = keys.0.into_iter().map(|entry| Entry { group: group(), ..entry });
        self.0.extend(grouped);
    }

    /// What differs between these keys and newer ones.
    pub(super) fn changes(&self, newer: &Self) -> Vec<KeyChange> {
        let mut changes = Vec::new();
        for entry in &newer.0 {
            let change = self.get(&entry.key).map(|old| old.value.difference(&entry.value));
            if let Some(change) = change.flatten() {
                changes.push(KeyChange { key: entry.key.clone(), change });
            }
        }
        changes.extend(newer.lacking_in(self, Value::added));
        changes.extend(self.lacking_in(newer, Value::removed));
        changes
    }

    /// What these keys have and `other` has not.
    fn lacking_in(&self, other: &Self, change: fn(&Value) -> Difference) -> Vec<KeyChange> {
        let (mut lacking, mut groups) = (Vec::new(), HashSet::new());
        for entry in self.0.iter().filter(|entry| other.get(&entry.key).is_none()) {
            let group = entry.group.as_deref().filter(|group| !other.has_group(group));
            let Some(group) = group else {
                lacking.push(KeyChange { key: entry.key.clone(), change: change(&entry.value) });
                continue;
            };
            // Where the head is there without the rest, it tells by itself.
            if other.get(group).is_none() && groups.insert(group) {
                // All of them have the same change; it is told of their head.
                let head = self.get(group).map(|head| &head.value);
                let whole = Value::Hidden(Hidden::Bytes(Vec::new()));
                let change = change(head.unwrap_or(&whole));
                lacking.push(KeyChange { key: group.to_owned(), change });
            }
        }
        lacking
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    fn has_group(&self, group: &str) -> bool {
        self.0.iter().any(|entry| entry.group.as_deref() == Some(group))
    }

    fn push(&mut self, key: &str, value: Value) {
        self.0.push(Entry { key: key.to_owned(), group: None, value });
    }
}

impl Value {
    fn difference(&self, newer: &Self) -> Option<Difference> {
        if self == newer {
            return None;
        }
        Some(match (self, newer) {
            (Self::One(from), Self::One(to)) => {
                Difference::Value { from: Some(from.clone()), to: Some(to.clone()) }
            }
            (Self::List(old), Self::List(new)) => {
                let changed = Vec::new();
                members(without(new, old), without(old, new), changed, sorted(old) == sorted(new))
            }
            (Self::Pairs(old), Self::Pairs(new)) => pairs(old, new),
            (Self::Order(old), Self::Order(new)) => {
                if sorted(old) != sorted(new) {
                    return None;
                }
                Difference::Reordered
            }
            _ => Difference::Changed,
        })
    }

    fn added(&self) -> Difference {
        match self {
            Self::One(value) => Difference::Value { from: None, to: Some(value.clone()) },
            _ => Difference::Added,
        }
    }

    fn removed(&self) -> Difference {
        match self {
            Self::One(value) => Difference::Value { from: Some(value.clone()), to: None },
            _ => Difference::Removed,
        }
    }
}

impl KeyChange {
    /// A change that no key tells of.
    pub(super) fn unnamed() -> Self {
        Self { key: "otherwise".to_owned(), change: Difference::Changed }
    }
}

/// A name may stand for several things: it has changed if any of them has.
fn pairs(old: &[(String, Hidden)], new: &[(String, Hidden)]) -> Difference {
    let (before, now) = (by_name(old), by_name(new));
    let lacking = |all: &BTreeMap<&str, Vec<&Hidden>>, there: &BTreeMap<&str, Vec<&Hidden>>| {
        let names = all.keys().filter(|name| !there.contains_key(*name));
        names.map(|name| (*name).to_owned()).collect::<Vec<String>>()
    };
    let is_other = |name: &&str| before.get(name).is_some_and(|hidden| *hidden != now[*name]);
    let changed: Vec<String> =
        now.keys().filter(|name| is_other(name)).map(|name| (*name).to_owned()).collect();
    let (added, removed) = (lacking(&now, &before), lacking(&before, &now));
    let same = added.is_empty() && removed.is_empty() && changed.is_empty();
    members(added, removed, changed, same)
}

fn by_name(pairs: &[(String, Hidden)]) -> BTreeMap<&str, Vec<&Hidden>> {
    let mut by_name: BTreeMap<&str, Vec<&Hidden>> = BTreeMap::new();
    for (name, hidden) in pairs {
        by_name.entry(name).or_default().push(hidden);
    }
    by_name
}

fn members(
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
    same: bool,
) -> Difference {
    if same {
        return Difference::Reordered;
    }
    if added.is_empty() && removed.is_empty() && changed.is_empty() {
        // The same ones, but more or less often.
        return Difference::Changed;
    }
    Difference::Members { added, removed, changed }
}

fn without(all: &[String], others: &[String]) -> Vec<String> {
    all.iter().filter(|one| !others.contains(one)).cloned().collect()
}

fn sorted(all: &[String]) -> Vec<&String> {
    let mut all: Vec<&String> = all.iter().collect();
    all.sort_unstable();
    all
}

fn strings<T: ToString>(members: impl IntoIterator<Item = T>) -> Vec<String> {
    members.into_iter().map(|member| member.to_string()).collect()
}
