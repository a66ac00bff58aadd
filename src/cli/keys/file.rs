//! A file of keys, changed as a whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::app::SetupError;
use crate::cli::Failure;
use crate::config::{FileKey, parse_keys};
use crate::layers::ApiKey;

const HEAD: &str = "# API keys, by what they hash to. `tollgate keys` changes this file.\n";

/// The keys and values that say what a key is, in TOML.
pub(super) fn entries(key: &ApiKey) -> Vec<String> {
    let text = |text: &str| toml::Value::from(text).to_string();
    let time = |time| Timestamp::try_from(time).unwrap_or(Timestamp::MAX).to_string();
    let mut entries = vec![format!("name = {}", text(&key.name))];
    entries.extend(key.id.as_deref().map(|id| format!("id = {}", text(id))));
    entries.push(format!("key = \"sha256:{}\"", key.digest.hex()));
    entries.extend(key.not_before.map(|begin| format!("not_before = {}", time(begin))));
    entries.extend(key.expires.map(|end| format!("expires = {}", time(end))));
    if !key.scopes.is_empty() {
        let scopes: Vec<String> = key.scopes.iter().map(|scope| text(scope)).collect();
        entries.push(format!("scopes = [{}]", scopes.join(", ")));
    }
    if let Some(quota) = key.quota {
        entries.push(format!("rate = {}", quota.requests));
        entries.push(format!("per = \"{}\"", humantime::format_duration(quota.per)));
        if quota.burst != quota.requests {
            entries.push(format!("burst = {}", quota.burst));
        }
    }
    entries
}

/// Adds a key at the end of the file.
pub(super) fn add(path: &Path, key: &ApiKey) -> Result<(), Failure> {
    change(path, true, |text, _| {
        let mut new = if text.is_empty() { HEAD.to_owned() } else { text.to_owned() };
        if !new.ends_with('\n') {
            new.push('\n');
        }
        Ok(format!("{new}\n[[key]]\n{}\n", entries(key).join("\n")))
    })
}

/// Lists the keys of the file.
pub(super) fn list(path: &Path) -> Result<(), Failure> {
    let (_, keys) = read(path)?;
    let now = std::time::SystemTime::now();
    for FileKey { key, .. } in &keys {
        let id = key.id.as_deref().unwrap_or("-");
        let mut line = format!("{id:<12}  {}", key.name);
        for (word, time) in [("not before", key.not_before), ("expires", key.expires)] {
            if let Some(time) = time.and_then(|time| Timestamp::try_from(time).ok()) {
                line.push_str(&format!("  {word} {time}"));
            }
        }
        if key.expires.is_some_and(|end| end <= now) {
            line.push_str(" (expired)");
        }
        if !key.scopes.is_empty() {
            line.push_str(&format!("  scopes {}", key.scopes.join(" ")));
        }
        if let Some(quota) = key.quota {
            let per = humantime::format_duration(quota.per);
            line.push_str(&format!("  {}/{per}, {} at once", quota.requests, quota.burst));
        }
        println!("{line}");
    }
    Ok(())
}

/// Takes keys out of the file, by their id or name.
pub(super) fn revoke(path: &Path, id: Option<&str>, name: Option<&str>) -> Result<(), Failure> {
    change(path, false, |text, keys| {
        let is_it = |key: &ApiKey| match id {
            Some(id) => key.id.as_deref() == Some(id),
            None => name == Some(&*key.name),
        };
        let gone: Vec<_> = keys.iter().filter(|one| is_it(&one.key)).collect();
        if gone.is_empty() {
            let sought = id.or(name).unwrap_or_default();
            return Err(Failure::Refused(format!("{} has no key {sought}", path.display())));
        }
        let starts: Vec<usize> = keys.iter().map(|one| one.span.start).collect();
        let which: Vec<usize> = gone.iter().map(|one| one.span.start).collect();
        let new = without(text, &starts, &which);
        let left = || keys.iter().filter(|one| !is_it(&one.key)).map(|one| one.key.digest);
        let is_right = |new: &String| {
            parse_keys(path, new).is_ok_and(|read| read.iter().map(|one| one.key.digest).eq(left()))
        };
        let new = new.filter(is_right).ok_or_else(|| {
            let why = "what is to be taken out does not stand in tables `[[key]]` of their own";
            Failure::Refused(format!("{} was not changed: {why}", path.display()))
        })?;
        for FileKey { key, .. } in gone {
            let id = key.id.as_deref().unwrap_or("-");
            eprintln!("revoked {} (id {id})", key.name);
        }
        Ok(new)
    })
}

/// The text without the tables that start at `gone`, which are some of those at `starts`.
/// Remarks right above a table or in it go with it; what an empty line parts from it stays.
/// `None` if there is something else than the head of a table at one of these places.
fn without(text: &str, starts: &[usize], gone: &[usize]) -> Option<String> {
    let mut bounds = Vec::new();
    for start in starts {
        let (before, table) = text.split_at_checked(*start)?;
        let (above, indent) = before.rsplit_once('\n').unwrap_or(("", before));
        if !table.starts_with("[[") || !indent.trim_ascii().is_empty() {
            return None;
        }
        let is_remark = |line: &&str| line.trim_ascii_start().starts_with('#');
        let remarks = above.rsplit('\n').take_while(is_remark);
        let long: usize = remarks.map(|line| line.len() + 1).sum();
        bounds.push((*start, (before.len() - indent.len()).saturating_sub(long)));
    }
    bounds.sort_unstable();
    let mut new = text.to_owned();
    // From the end, so that what comes before stays where it is.
    for (at, (start, begin)) in bounds.iter().enumerate().rev() {
        if gone.contains(start) {
            let next = bounds.get(at + 1).map_or(text.len(), |(_, begin)| *begin);
            let end = start + end_of(&text[*start..next]);
            new.replace_range(*begin..end, "");
        }
    }
    Some(format!("{}\n", new.trim_end()))
}

/// Where a table ends, with the remarks right behind it and the empty lines behind these.
/// What comes then, up to the next table, is about neither.
fn end_of(table: &str) -> usize {
    let lines: Vec<&str> = table.split_inclusive('\n').collect();
    let is_remark = |line: &&&str| line.trim_ascii_start().starts_with('#');
    let is_empty = |line: &&&str| line.trim_ascii().is_empty();
    let last = lines.iter().rposition(|line| !is_remark(&line) && !is_empty(&line));
    let last = last.map_or(0, |at| at + 1);
    let remarks = lines[last..].iter().take_while(is_remark).count();
    let empty = lines[last + remarks..].iter().take_while(is_empty).count();
    lines[..last + remarks + empty].iter().map(|line| line.len()).sum()
}

fn read(path: &Path) -> Result<(String, Vec<FileKey>), Failure> {
    let what = format!("cannot read {}", path.display());
    let text = std::fs::read_to_string(path).map_err(Failure::io(what))?;
    let keys = parse_keys(path, &text).map_err(SetupError::Config)?;
    Ok((text, keys))
}

/// Puts another text in the place of the file's, of which a reader sees the one or the
/// other. Who changes it meanwhile waits.
fn change(
    path: &Path,
    create: bool,
    make: impl FnOnce(&str, &[FileKey]) -> Result<String, Failure>,
) -> Result<(), Failure> {
    let wrong = |error| Failure::io(format!("cannot change {}", path.display()))(error);
    // What a link leads to is changed, and not the link.
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if create && error.kind() == ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(wrong(error)),
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A file that is replaced cannot be waited for: its folder stays.
    let folder_file = File::open(folder).map_err(wrong)?;
    folder_file.lock().map_err(wrong)?;
    let before = match File::open(&path) {
        Ok(file) => Some(file.metadata().map_err(wrong)?),
        Err(error) if create && error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(wrong(error)),
    };
    let (text, keys) = if before.is_some() { read(&path)? } else { Default::default() };
    let new = make(&text, &keys)?;
    // One that is empty would be taken for one that was cut off.
    let new = if new.trim().is_empty() { HEAD.to_owned() } else { new };
    // What is written is what is read, or it is not written.
    parse_keys(&path, &new).map_err(SetupError::Config)?;
    let (beside, mut file) = beside(&path).map_err(wrong)?;
    let written = (|| {
        if let Some(before) = &before {
            file.set_permissions(PermissionsExt::from_mode(before.mode() & 0o777))?;
            if file
                .metadata()
                .is_ok_and(|now| (now.uid(), now.gid()) != (before.uid(), before.gid()))
            {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
        }
        file.write_all(new.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        folder_file.sync_all()
    })();
    written.map_err(|error| {
        let _left = std::fs::remove_file(&beside);
        wrong(error)
    })
}

/// A new file in the same folder, for its owner's eyes only.
fn beside(path: &Path) -> std::io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    let file = match open() {
        // Left by a process that died, for who lives waits for the folder.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::remove_file(&beside)?;
            open()?
        }
        opened => opened?,
    };
    Ok((beside, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# Keys of all.\n\n# Of the shop.\n# Ask Ann.\n[[key]]\nname = \"a\"\n\
                        # until May\nscopes = [\n  \"x\", # one\n]\n# and June\n\n# Robots.\n\n\
                        # Of the crawler.\n[[key]]\nname = \"b\"\n# Of nobody.\n [[key]]\n\
                        name = \"c\"\n\n# The end.\n";

    fn left(gone: &[usize]) -> String {
        let starts: Vec<usize> = FILE.match_indices("[[key]]").map(|(at, _)| at).collect();
        let gone: Vec<usize> = gone.iter().map(|at| starts[*at]).collect();
        without(FILE, &starts, &gone).unwrap()
    }

    #[test]
    fn a_remark_goes_with_its_key_and_with_no_other() {
        let head = "# Keys of all.\n\n";
        let robots = "# Robots.\n\n# Of the crawler.\n[[key]]\nname = \"b\"\n";
        let c = "# Of nobody.\n [[key]]\nname = \"c\"\n\n";
        assert_eq!(left(&[]), FILE);
        assert_eq!(left(&[0]), format!("{head}{robots}{c}# The end.\n"));
        assert_eq!(left(&[0, 1]), format!("{head}# Robots.\n\n{c}# The end.\n"));
        assert_eq!(left(&[0, 2]), format!("{head}{robots}# The end.\n"));
        assert_eq!(left(&[2, 1, 0]), format!("{head}# Robots.\n\n# The end.\n"));
        assert_eq!(without("key = [{ name = 1 }]", &[7], &[7]), None);
    }
}
