//! The plan as people read it.

use std::fmt::{self, Display, Formatter, Write as _};

use super::keys::{Difference, KeyChange};
use super::spell::NONE;
use super::{Counts, Item, Part, Plan};

/// So many members of a list are named.
const MOST_NAMED: usize = 8;

/// A line: how far it is set in, its mark, what it is about, what of it.
struct Line {
    depth: usize,
    mark: char,
    what: String,
    how: String,
}

impl Plan {
    /// The plan in one line, for the log: how much is added, changed, removed and
    /// kept.
    #[must_use]
    pub fn summary(&self) -> String {
        if self.is_empty() {
            return "nothing changes".to_owned();
        }
        let Counts { added, changed, removed, kept } = self.counts();
        let mut summary =
            format!("{added} added, {changed} changed, {removed} removed, {kept} kept");
        if !self.needs_restart.is_empty() {
            let keys: Vec<&str> = self.needs_restart.iter().map(|one| &*one.key).collect();
            let need = if keys.len() == 1 { "needs" } else { "need" };
            let _infallible =
                write!(summary, "; {} {need} a restart or an upgrade", keys.join(", "));
        }
        summary
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for table in &self.settings {
            item(&mut lines, 0, '~', &format!("[{}]", table.name), table);
        }
        group(&mut lines, ("listener", &self.listeners), ("certificate", &self.certificates));
        group(&mut lines, ("upstream", &self.upstreams), ("origin", &self.origins));
        let nothing = Part::default();
        group(&mut lines, ("auth", &self.authenticators), ("", &nothing));
        group(&mut lines, ("route", &self.routes), ("", &nothing));
        for key in &self.needs_restart {
            let how = format!("{}  (needs a restart or an upgrade)", key.change);
            lines.push(Line { depth: 0, mark: '!', what: key.key.clone(), how });
        }
        lines
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        let length = |line: &Line| 2 * line.depth + line.what.chars().count();
        let aligned = lines.iter().filter(|line| !line.how.is_empty()).map(length);
        let width = aligned.max().unwrap_or(0).min(48);
        for Line { depth, mark, what, how } in &lines {
            write!(f, "{:indent$}{mark} {what}", "", indent = 2 * depth)?;
            if !how.is_empty() {
                let gap = width.saturating_sub(2 * depth + what.chars().count());
                write!(f, "{:gap$}  {how}", "")?;
            }
            writeln!(f)?;
        }
        f.write_str(&self.summary())
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { from, to } => {
                let spelled = |value: &Option<String>| match value.as_deref() {
                    None => NONE.to_owned(),
                    Some("") => "\"\"".to_owned(),
                    Some(value) => value.to_owned(),
                };
                write!(f, "{} -> {}", spelled(from), spelled(to))
            }
            Self::Members { added, removed, changed } => {
                let marked = [('+', added), ('-', removed), ('~', changed)];
                let all: Vec<String> = marked
                    .into_iter()
                    .flat_map(|(mark, names)| names.iter().map(move |name| format!("{mark}{name}")))
                    .collect();
                f.write_str(&all[..all.len().min(MOST_NAMED)].join(" "))?;
                match all.len().saturating_sub(MOST_NAMED) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::Reordered => f.write_str("in another order"),
            Self::Added => f.write_str("added"),
            Self::Removed => f.write_str("removed"),
            Self::Changed => f.write_str("changed"),
        }
    }
}

impl Display for KeyChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.change)
    }
}

/// Things of a kind, each with what is within it.
fn group(lines: &mut Vec<Line>, (kind, outer): (&str, &Part), (inner_kind, inner): (&str, &Part)) {
    let mut told: Vec<&str> = Vec::new();
    for (mark, outer_item) in marked(outer) {
        item(lines, 0, mark, &format!("{kind} {}", outer_item.name), outer_item);
        within(lines, &outer_item.name, inner_kind, inner);
        told.push(&outer_item.name);
    }
    // Those that change in nothing but what is within them.
    for (_, inner_item) in marked(inner) {
        let Some(name) = inner_item.of.as_deref().filter(|name| !told.contains(name)) else {
            continue;
        };
        let what = format!("{kind} {name}");
        lines.push(Line { depth: 0, mark: ' ', what, how: String::new() });
        within(lines, name, inner_kind, inner);
        told.push(name);
    }
}

fn within(lines: &mut Vec<Line>, name: &str, kind: &str, part: &Part) {
    for (mark, inner) in marked(part).filter(|(_, inner)| inner.of.as_deref() == Some(name)) {
        item(lines, 1, mark, &format!("{kind} {}", inner.name), inner);
    }
}

fn item(lines: &mut Vec<Line>, depth: usize, mark: char, what: &str, item: &Item) {
    let mut head = Line { depth, mark, what: what.to_owned(), how: String::new() };
    match &*item.changes {
        // What is within something else says it in one line, if it can.
        [only] if depth > 0 => {
            head.how = only.to_string();
            lines.push(head);
        }
        changes => {
            lines.push(head);
            lines.extend(changes.iter().map(|change| Line {
                depth: depth + 1,
                mark: ' ',
                what: change.key.clone(),
                how: change.change.to_string(),
            }));
        }
    }
    lines.extend(item.effects.iter().map(|effect| Line {
        depth: depth + 1,
        mark: ' ',
        what: format!("({effect})"),
        how: String::new(),
    }));
}

fn marked(part: &Part) -> impl Iterator<Item = (char, &Item)> {
    let mark = |mark| move |item| (mark, item);
    let added = part.added.iter().map(mark('+'));
    added.chain(part.changed.iter().map(mark('~'))).chain(part.removed.iter().map(mark('-')))
}
