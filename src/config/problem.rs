//! What is wrong with a configuration, and how it is shown.

use std::cell::RefCell;
use std::fmt;
use std::io::IsTerminal;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The line it is on, from 1.
    pub line: usize,
    /// The column it begins in, from 1, in characters.
    pub column: usize,
    /// The key it is about, such as `route[2].rate_limit.burst`.
    pub key: String,
    /// What is wrong, and what was expected.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
    span: Range<usize>,
}

/// A configuration that cannot be used: everything that is wrong with it.
///
/// Displayed, it is a report for people, with the lines it is about.
#[derive(Debug)]
pub struct LoadError {
    path: PathBuf,
    text: String,
    problems: Vec<Problem>,
    sources: Vec<PathBuf>,
    others: Vec<Self>,
}

/// Collects problems while a configuration is read, and what it is read from.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    text: &'a str,
    found: RefCell<Vec<Problem>>,
    secrets: RefCell<Vec<Range<usize>>>,
    sources: RefCell<Vec<PathBuf>>,
    others: RefCell<Vec<LoadError>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let (found, secrets, sources, others, warnings) = Default::default();
        Self { text, found, secrets, sources, others, warnings }
    }

    /// Keeps what stands at `span` out of every report.
    pub(super) fn conceal(&self, span: Range<usize>) {
        self.secrets.borrow_mut().push(span);
    }

    /// Notes that part of the configuration stands in another file.
    pub(super) fn add_source(&self, file: PathBuf) {
        self.sources.borrow_mut().push(file);
    }

    /// Notes what is wrong with another file, once however often it is read.
    pub(super) fn add_report(&self, report: LoadError) {
        let mut others = self.others.borrow_mut();
        if !others.iter().any(|other| other.path == report.path) {
            others.push(report);
        }
    }

    /// The other files that were read.
    pub(super) fn take_sources(&self) -> Vec<PathBuf> {
        self.sources.take()
    }

    /// Notes that something is wrong with `key`, at `span`.
    pub(super) fn add(
        &self,
        key: &str,
        span: Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.found.borrow_mut().push(self.problem(key, span, message.into(), hint));
    }

    /// Notes that `key`, at `span`, can be used and is hardly meant, or not safe.
    pub(super) fn warn(&self, key: &str, span: Range<usize>, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.problem(key, span, message.into(), None));
    }

    /// What was warned of in the file at `path`, a line each, in its order.
    pub(super) fn take_warnings(&self, path: &Path) -> Vec<String> {
        let mut warnings = self.warnings.take();
        warnings.sort_by_key(|warning| warning.span.start);
        warnings.iter().map(|warning| warning.title(path)).collect()
    }

    /// Where each line begins, in bytes.
    pub(super) fn lines(&self) -> Vec<usize> {
        let further = self.text.match_indices('\n').map(|(newline, _)| newline + 1);
        std::iter::once(0).chain(further).collect()
    }

    /// The line and the column of a byte, both from 1, where `lines` is where lines begin.
    pub(super) fn place_in(&self, lines: &[usize], at: usize) -> (usize, usize) {
        let line = lines.partition_point(|begin| *begin <= at);
        let begin = line.checked_sub(1).and_then(|line| lines.get(line)).copied();
        let begin = begin.unwrap_or(0);
        let before = self.text.get(begin..at).unwrap_or_else(|| &self.text[begin..]);
        (line, before.chars().count() + 1)
    }

    /// The line and the column of a byte, both from 1.
    pub(super) fn place(&self, at: usize) -> (usize, usize) {
        self.place_in(&self.lines(), at)
    }

    fn problem(
        &self,
        key: &str,
        span: Range<usize>,
        message: String,
        hint: Option<String>,
    ) -> Problem {
        let (line, column) = self.place(span.start);
        Problem { line, column, key: key.to_owned(), message, hint, span }
    }

    /// Whether nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty() && self.others.borrow().is_empty()
    }

    /// The report on everything that is wrong with the file at `path`.
    pub(super) fn into_error(self, path: &Path) -> LoadError {
        let mut problems = self.found.into_inner();
        problems.sort_by_key(|problem| problem.span.start);
        let text = concealed(self.text, &self.secrets.into_inner());
        let (sources, others) = (self.sources.into_inner(), self.others.into_inner());
        LoadError { path: path.to_owned(), text, problems, sources, others }
    }
}

impl Problem {
    /// It in one line, of the file at `path`.
    fn title(&self, path: &Path) -> String {
        let place = format!("{}:{}:{}", path.display(), self.line, self.column);
        let key = if self.key.is_empty() { String::new() } else { format!("`{}`: ", self.key) };
        format!("{place}: {key}{}", self.message)
    }
}

/// The text with a star for each byte of its secrets, so that every place stays
/// where it is.
fn concealed(text: &str, secrets: &[Range<usize>]) -> String {
    let is_secret = |at: usize| secrets.iter().any(|span| span.contains(&at));
    let mut shown = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if is_secret(at) && !matches!(c, '\n' | '"' | '\'') {
            shown.extend(std::iter::repeat_n('*', c.len_utf8()));
        } else {
            shown.push(c);
        }
    }
    shown
}

impl LoadError {
    /// The file cannot be read at all.
    pub(super) fn unreadable(path: &Path, cause: &std::io::Error) -> Self {
        let hint = match cause.kind() {
            std::io::ErrorKind::NotFound => {
                "name a file with `-c`, or start with `tollgate demo`".to_owned()
            }
            _ => "check its permissions".to_owned(),
        };
        let problem = Problem {
            line: 1,
            column: 1,
            key: String::new(),
            message: format!("the file cannot be read: {cause}"),
            hint: Some(hint),
            span: 0..0,
        };
        let (text, problems) = (String::new(), vec![problem]);
        let (sources, others) = (Vec::new(), Vec::new());
        Self { path: path.to_owned(), text, problems, sources, others }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The other files that it names, as far as it could be read: one that is missing
    /// may be all that is wrong.
    #[must_use]
    pub fn sources(&self) -> &[PathBuf] {
        &self.sources
    }

    /// What is wrong with other files that it has parts of it in, such as one of keys.
    #[must_use]
    pub fn others(&self) -> &[Self] {
        &self.others
    }

    /// Everything that is wrong with the file itself, in its order.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The report without colours, wherever this process's output goes: for others
    /// to read.
    #[must_use]
    pub fn plain(&self) -> String {
        self.report(&Renderer::plain().decor_style(DecorStyle::Ascii))
    }

    /// Each problem in one line: place, key and what is wrong.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let files = std::iter::once(self).chain(&self.others);
        files.flat_map(|file| file.problems.iter().map(|problem| problem.title(&file.path)))
    }

    fn report(&self, renderer: &Renderer) -> String {
        let mut report = String::new();
        let files = || std::iter::once(self).chain(&self.others);
        for file in files() {
            for problem in &file.problems {
                report.push_str(&file.render(problem, renderer));
                report.push_str("\n\n");
            }
        }
        let counts = files().filter(|file| !file.problems.is_empty()).map(|file| {
            let count = file.problems.len();
            let plural = if count == 1 { "" } else { "s" };
            format!("{count} problem{plural} in {}", file.path.display())
        });
        report.push_str(&counts.collect::<Vec<_>>().join(", "));
        report
    }

    fn render(&self, problem: &Problem, renderer: &Renderer) -> String {
        let path = self.path.display().to_string();
        let mut group = Group::with_title(Level::ERROR.primary_title(problem.title(&self.path)));
        if !self.text.is_empty() {
            let end = problem.span.end.clamp(problem.span.start, self.text.len());
            // A whole table is marked by its first line.
            let first = self.text[problem.span.start..end].lines().next().unwrap_or_default();
            let span = problem.span.start..problem.span.start + first.len();
            let snippet = Snippet::source(self.text.as_str())
                .path(path)
                .annotation(AnnotationKind::Primary.span(span));
            group = group.element(snippet);
        }
        if let Some(hint) = &problem.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        renderer.render(&[group])
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let styled = std::io::stderr().is_terminal();
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        f.write_str(&self.report(&renderer.decor_style(DecorStyle::Ascii)))
    }
}

impl std::error::Error for LoadError {}
