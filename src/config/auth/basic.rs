//! `[auth.basic]`, and files of users.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use http::HeaderValue;

use crate::config::problem::{LoadError, Problems};
use crate::config::reader::{Fits, Misfit, Table, Value};
use crate::config::units::{Secret, duration_or_off, file_text, header_name, secret};
use crate::layers::{
    BasicSettings, BasicUser, HtpasswdFault, PasswordHash, check_user, parse_htpasswd,
};

pub(super) fn read(mut table: Table<'_>, base: &Path) -> Option<BasicSettings> {
    let realm = table.read("realm", |value| {
        let text = value.string("what users are told that they log in to")?;
        // RFC 7617 §2.1 leaves open how a realm would be read that is not ASCII.
        let fits = text.is_ascii() && HeaderValue::from_str(text).is_ok();
        fits.then(|| text.into()).ok_or_else(|| Misfit::new("a realm is of ASCII characters"))
    });
    if !table.has("users") && !table.has("file") {
        let hint = "or a `file` of users, as `htpasswd` writes them".to_owned();
        table.complain("the key `users` is missing: who is let in", Some(hint));
    }
    let (mut users, mut names) = (Vec::new(), HashSet::new());
    let elsewhere = table.has("file");
    match table.value("users") {
        Some(value) if value.is_empty_list() && !elsewhere => {
            value.complain("there is no user: nobody would be let in", None);
        }
        Some(value) if value.is_string() => {
            let hint = "a file of users is named by `file`".to_owned();
            value.complain("expected a list of users, found a string", Some(hint));
        }
        _ => {
            for user in table.tables("users") {
                users.extend(one_user(user, base, &mut names));
            }
        }
    }
    let file = table.value("file");
    let file = file.and_then(|value| in_file(&value, base, &mut users, &mut names));
    warn_of_hashes(&table, &users);
    let mut settings = BasicSettings::new([]);
    table.set("cache", &mut settings.cache, duration_or_off);
    settings.identity_header = table.read("identity_header", header_name);
    settings.scopes_header = table.read("scopes_header", header_name);
    table.set("forward_credentials", &mut settings.forward_credentials, Value::boolean);
    table.finish(&[
        ("user", "users"),
        ("htpasswd", "file"),
        ("users_file", "file"),
        ("auth_basic_user_file", "file"),
        ("header_field", "identity_header"),
        ("remove_header", "forward_credentials"),
        ("cache_ttl", "cache"),
    ]);
    settings.realm = realm.unwrap_or(settings.realm);
    (settings.users, settings.file) = (users.into(), file);
    Some(settings)
}

fn in_file(
    value: &Value<'_>,
    base: &Path,
    users: &mut Vec<BasicUser>,
    names: &mut HashSet<String>,
) -> Option<PathBuf> {
    let (path, text) = value.fit(|value| file_text(value, base))?;
    match parse_htpasswd(&text) {
        Ok(read) => {
            super::nobody(value, &path, &text, read.is_empty());
            for user in read {
                if !names.insert(user.name.to_string()) {
                    let message = format!("{} has `{}` as well", path.display(), user.name);
                    value.complain(message, None);
                }
                users.push(user);
            }
        }
        Err(faults) => value.add_report(report(&path, &text, faults)),
    }
    Some(path)
}

/// Warns of hashes that tell more, or keep less, than they should.
fn warn_of_hashes(table: &Table<'_>, users: &[BasicUser]) {
    let first = users.first().map(|user| &user.password);
    if first.is_some_and(|first| !users.iter().all(|user| user.password.is_as_dear_as(first))) {
        table.warn(
            "the passwords are hashed in different ways: how long an answer takes tells which \
             names there are. `tollgate hash-password` makes hashes that are all alike",
        );
    }
    let cheap = |user: &&BasicUser| user.password.bcrypt_cost().is_some_and(|cost| cost < 10);
    let mut cheap = users.iter().filter(cheap);
    if let Some(user) = cheap.next() {
        let more = match cheap.count() {
            0 => String::new(),
            more => format!(" and of {more} more"),
        };
        table.warn(format!(
            "the password of `{}`{more} is hashed by bcrypt with a cost below 10, and quickly \
             guessed by whoever has the hash",
            user.name
        ));
    }
}

/// What is wrong with a file of users. What may be a password, or lead to one, is not shown.
fn report(path: &Path, text: &str, faults: Vec<HtpasswdFault>) -> LoadError {
    let problems = Problems::new(text);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let secret = line.find(':').map_or(0, |colon| colon + 1);
        if !line.starts_with('#') {
            problems.conceal(start + secret..start + line.len());
        }
        start += line.len();
    }
    for HtpasswdFault { span, message, hint } in faults {
        problems.add("", span, message, hint);
    }
    problems.into_error(path)
}

fn one_user(mut table: Table<'_>, base: &Path, names: &mut HashSet<String>) -> Option<BasicUser> {
    for (field, _, value) in table.entries() {
        // Whatever it is called, it may be the password itself.
        let says_where = |text: &str| text.starts_with("env:") || text.starts_with("file:");
        if !["name", "scopes"].contains(&field.as_str()) && !value.string("").is_ok_and(says_where)
        {
            value.conceal();
        }
    }
    let name = table.require("name", "who it is", |value| {
        let name = value.string("the name of a user")?;
        check_user(name).map_err(Misfit::new)?;
        let new = names.insert(name.to_owned());
        new.then(|| name.into()).ok_or_else(|| Misfit::new(format!("there are two users `{name}`")))
    });
    let password = table.require("password", "what the password hashes to", |v| password(v, base));
    let scopes = table.list("scopes", super::scope);
    table.finish(&[("user", "name"), ("username", "name"), ("hash", "password")]);
    let scopes = scopes.unwrap_or_default().into_iter().map(Into::into).collect();
    Some(BasicUser { name: name?, password: password?, scopes })
}

/// A hashed password, or where one stands.
fn password(value: &Value<'_>, base: &Path) -> Fits<PasswordHash> {
    let text = value.string("a hashed password")?;
    let parsed = if text.starts_with("env:") || text.starts_with("file:") {
        match secret(value, base, "hash of a password")? {
            Secret::Read(text) => text.parse(),
            Secret::Digest(_) => return Err(Misfit::new("a digest is no hash of a password")),
        }
    } else {
        text.parse()
    };
    parsed.map_err(|error: crate::layers::PasswordHashError| {
        Misfit::new(error.to_string()).hint("`tollgate hash-password` makes a hash")
    })
}
