//! Reads a spanned TOML document key by key, and goes on past what is wrong,
//! so that everything that is can be said at once.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::time::SystemTime;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{LoadError, Problems};

/// A table, and which of its keys have been asked for.
#[derive(Debug)]
pub(super) struct Table<'a> {
    path: String,
    span: Range<usize>,
    entries: &'a DeTable<'a>,
    known: Vec<&'static str>,
    problems: &'a Problems<'a>,
}

/// A value, with where it stands.
#[derive(Clone, Debug)]
pub(super) struct Value<'a> {
    pub(super) path: String,
    pub(super) span: Range<usize>,
    value: &'a DeValue<'a>,
    problems: &'a Problems<'a>,
}

/// Why a value does not fit.
#[derive(Debug)]
pub(super) struct Misfit {
    message: String,
    hint: Option<String>,
}

/// What a value becomes.
pub(super) type Fits<T> = Result<T, Misfit>;

impl Misfit {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl<'a> Table<'a> {
    pub(super) fn root(entries: &'a Spanned<DeTable<'a>>, problems: &'a Problems<'a>) -> Self {
        let (span, entries) = (entries.span(), entries.get_ref());
        Self { path: String::new(), span, entries, known: Vec::new(), problems }
    }

    /// The table's own path, such as `route[2]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where the table stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where problems are noted.
    pub(super) fn problems(&self) -> &'a Problems<'a> {
        self.problems
    }

    /// Whether it has this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem with this table.
    pub(super) fn complain(&self, message: impl Into<String>, hint: Option<String>) {
        self.problems.add(&self.path, self.span.clone(), message, hint);
    }

    /// Notes that this table can be used and is hardly meant, or not safe.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.problems.warn(&self.path, self.span.clone(), message);
    }

    /// The value of a key, if it is there.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let value = self.entries.get(key)?;
        Some(Value {
            path: self.key_path(key),
            span: value.span(),
            value: value.get_ref(),
            problems: self.problems,
        })
    }

    /// The value of a key, made into what it should be.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        fit: impl FnOnce(&Value<'a>) -> Fits<T>,
    ) -> Option<T> {
        self.value(key)?.fit(fit)
    }

    /// Puts the value of a key in the place of a default.
    pub(super) fn set<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        fit: impl FnOnce(&Value<'a>) -> Fits<T>,
    ) {
        if let Some(value) = self.read(key, fit) {
            *target = value;
        }
    }

    /// The value of a key that must be there.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        what: &str,
        fit: impl FnOnce(&Value<'a>) -> Fits<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.push(key);
            self.complain(format!("the key `{key}` is missing: {what}"), None);
            return None;
        }
        self.read(key, fit)
    }

    /// The table under a key.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        self.value(key)?.table()
    }

    /// The tables of an array of tables.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        value
            .items(&format!("an array of tables, each written `[[{key}]]`"))
            .unwrap_or_default()
            .into_iter()
            .filter_map(|item| item.table())
            .collect()
    }

    /// The table under a key, or those of an array of tables.
    pub(super) fn one_or_more(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let items = match value.value {
            DeValue::Array(_) => value.items("tables").unwrap_or_default(),
            _ => vec![value],
        };
        items.into_iter().filter_map(|item| item.table()).collect()
    }

    /// The list under a key, each item made into what it should be; a single
    /// value stands for a list of one.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        mut fit: impl FnMut(&Value<'a>) -> Fits<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let items = match value.value {
            DeValue::Array(_) => value.items("a list")?,
            _ => vec![value],
        };
        Some(items.into_iter().filter_map(|item| item.fit(&mut fit)).collect())
    }

    /// Every key with its value, for tables whose keys the user chooses.
    pub(super) fn entries(&self) -> impl Iterator<Item = (String, Range<usize>, Value<'a>)> {
        self.entries.iter().map(|(key, value)| {
            let name = key.get_ref().clone().into_owned();
            let path = self.key_path(&name);
            let (span, problems) = (value.span(), self.problems);
            (name, key.span(), Value { path, span, value: value.get_ref(), problems })
        })
    }

    /// Complains of every key that nobody asked for. `elsewhere` names keys of
    /// other proxies, and ours for the same.
    pub(super) fn finish(self, elsewhere: &[(&str, &str)]) {
        for (key, _) in self.entries {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let renamed = elsewhere.iter().find(|(theirs, _)| *theirs == name);
            let hint = match renamed {
                Some((_, ours)) => Some(format!("here it is `{ours}`")),
                None => nearest(name, &self.known)
                    .map(|near| format!("did you mean `{near}`?"))
                    .or_else(|| Some(format!("known here: {}", self.known.join(", ")))),
            };
            self.problems.add(&self.key_path(name), key.span(), "there is no such key", hint);
        }
    }
}

impl<'a> Value<'a> {
    /// Makes the value into what it should be, or notes why it is not.
    pub(super) fn fit<T>(&self, fit: impl FnOnce(&Self) -> Fits<T>) -> Option<T> {
        match fit(self) {
            Ok(value) => Some(value),
            Err(Misfit { message, hint }) => {
                self.complain(message, hint);
                None
            }
        }
    }

    /// Notes a problem with this value.
    pub(super) fn complain(&self, message: impl Into<String>, hint: Option<String>) {
        self.problems.add(&self.path, self.span.clone(), message, hint);
    }

    /// Notes that this value can be used and is hardly meant, or not safe.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.problems.warn(&self.path, self.span.clone(), message);
    }

    /// Keeps this value out of every report.
    pub(super) fn conceal(&self) {
        self.problems.conceal(self.span.clone());
    }

    /// Notes that what is meant stands in a file.
    pub(super) fn comes_from(&self, file: &Path) {
        self.problems.add_source(file.to_owned());
    }

    /// Notes what is wrong with the file that is meant.
    pub(super) fn add_report(&self, report: LoadError) {
        self.problems.add_report(report);
    }

    /// Notes a problem with the key of this value.
    pub(super) fn complain_at(&self, key: Range<usize>, misfit: Misfit) {
        self.problems.add(&self.path, key, misfit.message, misfit.hint);
    }

    fn expected(&self, what: &str) -> Misfit {
        Misfit::new(format!("expected {what}, found {}", self.found()))
    }

    fn found(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "`true` or `false`",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.as_array().is_some()
    }

    pub(super) fn is_fraction(&self) -> bool {
        self.value.is_float()
    }

    pub(super) fn is_string(&self) -> bool {
        self.value.is_str()
    }

    pub(super) fn string(&self, what: &str) -> Fits<&'a str> {
        self.value.as_str().ok_or_else(|| self.expected(what))
    }

    /// A moment: a date and time with an offset, as a value of TOML's or a string
    /// (RFC 3339 §5.6).
    pub(super) fn moment(&self) -> Fits<SystemTime> {
        const WHAT: &str = "a date and time such as 2027-01-31T12:00:00Z";
        let text = match self.value {
            DeValue::Datetime(moment) => moment.to_string(),
            _ => self.string(WHAT)?.to_owned(),
        };
        let misfit = || Misfit::new(format!("`{text}` is not {WHAT}"));
        // What has the look of a date and time has to have its offset, too.
        let moment: jiff::Timestamp = text.parse().map_err(|_| match text.len() {
            10 => misfit().hint(format!("write {text}T00:00:00Z for the beginning of that day")),
            19 => misfit().hint(format!("write {text}Z, or with another offset from UTC")),
            _ => misfit(),
        })?;
        SystemTime::try_from(moment).map_err(|_| misfit())
    }

    pub(super) fn boolean(&self) -> Fits<bool> {
        self.value.as_bool().ok_or_else(|| self.expected("`true` or `false`"))
    }

    /// A whole number from `least` to `most`.
    pub(super) fn integer(&self, what: &str, least: u64, most: u64) -> Fits<u64> {
        let number = self.value.as_integer().ok_or_else(|| self.expected(what))?;
        let value = i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
        let fits = u64::try_from(value).ok().filter(|value| (least..=most).contains(value));
        fits.ok_or_else(|| match most {
            u64::MAX => Misfit::new(format!("expected {what} of at least {least}")),
            most => Misfit::new(format!("expected {what} from {least} to {most}")),
        })
    }

    pub(super) fn parsed<T>(&self, what: &str) -> Fits<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.string(what)?;
        text.parse().map_err(|error| Misfit::new(format!("`{text}` is not {what}: {error}")))
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Fits<T> {
        let names: Vec<&'static str> = words.iter().map(|(name, _)| *name).collect();
        let choice = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let text = self.string(&format!("one of {choice}"))?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let misfit = Misfit::new(format!("expected one of {choice}, found `{text}`"));
        Err(match nearest(text, &names) {
            Some(near) => misfit.hint(format!("did you mean \"{near}\"?")),
            None => misfit,
        })
    }

    pub(super) fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(|items| items.is_empty())
    }

    /// The items of a list, if it is one.
    pub(super) fn items_if_list(&self) -> Option<Vec<Self>> {
        self.value.is_array().then(|| self.items("a list"))?
    }

    /// The items of a list.
    pub(super) fn items(&self, what: &str) -> Option<Vec<Self>> {
        let Some(items) = self.value.as_array() else {
            let Misfit { message, hint } = self.expected(what);
            self.complain(message, hint);
            return None;
        };
        let item = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| Self {
            path: format!("{}[{index}]", self.path),
            span: item.span(),
            value: item.get_ref(),
            problems: self.problems,
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn table(&self) -> Option<Table<'a>> {
        let Some(entries) = self.value.as_table() else {
            let Misfit { message, hint } = self.expected("a table");
            self.complain(message, hint);
            return None;
        };
        let (path, span, problems) = (self.path.clone(), self.span.clone(), self.problems);
        Some(Table { path, span, entries, known: Vec::new(), problems })
    }
}

/// The candidate that `word` is likely to be a misspelling of.
pub(super) fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    candidates
        .iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
