//! `[auth.signature]`

use std::path::Path;

use http::HeaderValue;

use super::scope;
use crate::config::reader::{Misfit, Table, Value};
use crate::config::signing::{
    algorithm, component, conceal_secrets, read_pem, rejected, shared_secret, text,
};
use crate::config::units::{count, duration, duration_or_off, header_name, memory_size};
use crate::layers::{SignatureKey, SignatureSettings};
use crate::pem;
use crate::signature::{Component, Scheme, VerifyingKey};

pub(super) fn read(mut table: Table<'_>, base: &Path) -> Option<SignatureSettings> {
    let mut keys: Vec<SignatureKey> = Vec::new();
    if table.has("keys") {
        if let Some(none) = table.value("keys").filter(Value::is_empty_list) {
            none.complain("there is no key: nobody would be let in", None);
        }
        for key in table.tables("keys") {
            let ids: Vec<String> = keys.iter().map(|key| key.id.clone()).collect();
            keys.extend(one_key(key, base, &ids));
        }
    } else {
        table.complain("the key `keys` is missing: whose signatures let in", None);
        let _known = table.value("keys");
    }
    let mut settings = SignatureSettings::new(keys);
    if let Some(required) = table.list("required", component) {
        if let Some(value) = table.value("required") {
            ties_request(&value, &required);
        }
        settings.required = required;
    }
    table.set("max_age", &mut settings.max_age, duration);
    table.set("skew", &mut settings.skew, duration_or_off);
    table.set("nonce", &mut settings.nonce, Value::boolean);
    table.set("replay", &mut settings.replay, Value::boolean);
    table.set("max_remembered", &mut settings.max_remembered, count);
    settings.tag = table.read("tag", text);
    table.set("max_body", &mut settings.max_body, memory_size);
    settings.scheme =
        table.read("scheme", |v| v.word(&[("http", Scheme::Http), ("https", Scheme::Https)]));
    settings.identity_header = table.read("identity_header", header_name);
    table.finish(&[
        ("key", "keys"),
        ("components", "required"),
        ("headers", "required"),
        ("clock_skew", "skew"),
        ("leeway", "skew"),
        ("ttl", "max_age"),
    ]);
    Some(settings)
}

/// Complains of what has to be covered if one request's signature would do for another.
fn ties_request(value: &Value<'_>, required: &[Component]) {
    // Of what is none there is a complaint already.
    if value.items_if_list().is_some_and(|items| items.len() != required.len()) {
        return;
    }
    let is_covered = |part: &Component| required.iter().any(|one| one.covers(part));
    if !is_covered(&Component::Method) || !is_covered(&Component::Path) {
        value.complain(
            "a signature has to cover the method and the path, or it is good for other requests \
             as well",
            Some("`\"@method\"`, and `\"@path\"` or `\"@target-uri\"`".to_owned()),
        );
    }
}

fn one_key(mut table: Table<'_>, base: &Path, ids: &[String]) -> Option<SignatureKey> {
    conceal_secrets(&table);
    let id = table.require("id", "what signatures call it (`keyid`)", |v| {
        let id = text(v)?;
        match ids.contains(&id) {
            true => Err(Misfit::new(format!("another key is called `{id}` already"))),
            false => Ok(id),
        }
    });
    let name = table.read("name", |v| {
        let name = v.string("whose key it is")?;
        match HeaderValue::from_str(name) {
            Ok(_) if !name.is_empty() => Ok(name.to_owned()),
            _ => Err(Misfit::new("a name is not empty and has no control characters")),
        }
    });
    let key = verifying_key(&mut table, base);
    let scopes = table.list("scopes", scope).unwrap_or_default();
    table.finish(&[
        ("key_id", "id"),
        ("keyid", "id"),
        ("alg", "algorithm"),
        ("key", "public_key` or `secret"),
        ("private_key", "public_key"),
    ]);
    let id = id?;
    let mut key = SignatureKey::new(id.clone(), name.unwrap_or(id), key?);
    key.scopes = scopes.into_iter().map(Into::into).collect();
    Some(key)
}

fn verifying_key(table: &mut Table<'_>, base: &Path) -> Option<VerifyingKey> {
    let named = algorithm(table);
    let wrong_algorithm = named.is_none() && table.has("algorithm");
    let secret = shared_secret(table, base);
    let file = table.value("public_key");
    if table.has("secret") == file.is_some() {
        let hint = "`secret = \"env:NAME\"` for hmac-sha256, or `public_key = \"key.pem\"`";
        table.complain("expected either `secret` or `public_key`", Some(hint.to_owned()));
        return None;
    }
    let Some(algorithm) = named else {
        // Whoever verifies is not to be told by a request what a key is for.
        if !wrong_algorithm {
            table.complain("the key `algorithm` is missing: the one that the key is for", None);
        }
        return None;
    };
    if let Some(file) = file {
        return file.fit(|v| {
            let der = read_pem(v, base, pem::read_public_key)?;
            VerifyingKey::public(algorithm, &der).map_err(|error| rejected(&error))
        });
    }
    if !algorithm.is_symmetric() {
        table.complain(format!("`{algorithm}` takes a `public_key` and no `secret`"), None);
        return None;
    }
    let (value, secret) = secret?;
    value.fit(|_| VerifyingKey::secret(&secret).map_err(|error| rejected(&error)))
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    fn report(keys: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "hunter2-of-many-letters").unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("public.pem"), key.public_key_pem()).unwrap();
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nname = \"a\"\nrespond = {{}}\nauth = \"a\"\n\
             [[auth]]\nname = \"a\"\n[auth.signature]\n{keys}\n"
        );
        let parsed = parse(&dir.path().join("config.toml"), &text);
        parsed.map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn a_key_is_for_one_algorithm_and_that_is_said() {
        let key = |rest: &str| report(&format!("keys = [{{ id = \"a\", {rest} }}]"));
        assert_eq!(key("algorithm = \"hmac-sha256\", secret = \"file:secret\""), "");
        assert_eq!(key("algorithm = \"ecdsa-p256-sha256\", public_key = \"public.pem\""), "");
        for (rest, complaint) in [
            ("secret = \"file:secret\"", "the key `algorithm` is missing"),
            ("public_key = \"public.pem\"", "the key `algorithm` is missing"),
            (
                "algorithm = \"ed25519\", public_key = \"public.pem\"",
                "no key for `ed25519`: it is of another kind",
            ),
            (
                "algorithm = \"hmac-sha256\", public_key = \"public.pem\"",
                "is not for a key of this kind",
            ),
            (
                "algorithm = \"ed25519\", secret = \"file:secret\"",
                "takes a `public_key` and no `secret`",
            ),
            ("algorithm = \"none\", secret = \"file:secret\"", "expected one of"),
            ("algorithm = \"hmac-sha256\"", "expected either `secret` or `public_key`"),
            ("algorithm = \"hmac-sha256\", secret = \"hunter2\"", "does not stand in"),
            ("algorithm = \"hmac-sha256\", key = \"hunter2\"", "here it is `public_key`"),
        ] {
            let report = key(rest);
            assert!(report.contains(complaint), "{rest}: {report}");
            assert!(!report.contains("hunter2"), "{rest}: {report}");
        }
        assert!(report("").contains("whose signatures let in"));
        let one = "{ id = \"a\", algorithm = \"hmac-sha256\", secret = \"file:secret\" }";
        let twice = report(&format!("keys = [{one}, {one}]"));
        assert!(twice.contains("another key is called `a` already"), "{twice}");
    }

    #[test]
    fn a_signature_has_to_be_of_one_request() {
        let with = |required: &str| {
            let key = "{ id = \"a\", algorithm = \"hmac-sha256\", secret = \"file:secret\" }";
            report(&format!("keys = [{key}]\nrequired = {required}"))
        };
        for fine in [
            "[\"@method\", \"@path\"]",
            "[\"@target-uri\", \"@method\"]",
            "[\"@request-target\", \"@method\", \"x-a\"]",
        ] {
            assert_eq!(with(fine), "", "{fine}");
        }
        for loose in
            ["[]", "[\"@method\"]", "\"@path\"", "[\"@method\", \"@query\"]", "[\"@target-uri\"]"]
        {
            let report = with(loose);
            assert!(report.contains("has to cover the method and the path"), "{loose}: {report}");
        }
        let unknown = with("[\"@nonsense\"]");
        assert!(unknown.contains("is not a component"), "{unknown}");
        assert!(!unknown.contains("has to cover"), "{unknown}");
    }
}
