//! A configuration: settings, or problems that each have a place in the file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Nothing that a file may name is looked for outside the target.
    if ["file:", "/dev", "/proc", "/sys"].iter().any(|path| text.contains(path)) {
        return;
    }
    let Err(error) = tollgate::config::parse(Path::new("/nowhere/config.toml"), text) else {
        return;
    };
    assert!(!error.problems().is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in error.problems() {
        assert!((1..=lines.len()).contains(&problem.line), "{problem:?}");
        let columns = lines[problem.line - 1].chars().count() + 1;
        assert!((1..=columns).contains(&problem.column), "{problem:?}");
        assert!(!problem.message.is_empty(), "{problem:?}");
    }
    let in_order = error.problems().is_sorted_by_key(|problem| (problem.line, problem.column));
    assert!(in_order, "{:?}", error.problems());
    let shown = error.to_string();
    assert!(!shown.contains('\u{1b}') || text.contains('\u{1b}'), "{shown}");
});
