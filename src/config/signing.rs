//! `[upstream.sign]`, and what it has in common with `[auth.signature]`.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header;
use zeroize::Zeroizing;

use super::reader::{Fits, Misfit, Table, Value};
use super::says_where;
use super::units::{Secret, duration, field_name, memory_size, secret};
use crate::pem::{self, PemError};
use crate::signature::{Algorithm, Component, KeyRejected, SignSettings, SigningKey};

pub(super) fn sign(mut table: Table<'_>, base: &Path) -> Option<SignSettings> {
    conceal_secrets(&table);
    let key_id = table.require("key_id", "what the key is called", text);
    let key = signing_key(&mut table, base);
    // Read even without a key, so that every mistake is told.
    let read_without_key = SigningKey::secret(&[0; 32]).ok()?;
    let mut settings = SignSettings::new(
        key.clone().unwrap_or(read_without_key),
        key_id.clone().unwrap_or_default(),
    );
    if let Some(components) = table.list("components", covered) {
        settings.components = components;
    }
    if let Some(expires) = table.read("expires", |v| match v.string("") {
        Ok("never") => Ok(None),
        _ => duration(v).map(Some),
    }) {
        settings.expires = expires;
    }
    table.set("label", &mut settings.label, |v| {
        const WHAT: &str = "a label of lower-case letters, digits, `_`, `-`, `.` and `*`";
        let label = v.string(WHAT)?;
        let fits = SignSettings::is_label(label).then(|| label.to_owned());
        fits.ok_or_else(|| Misfit::new(format!("`{label}` is not {WHAT}")))
    });
    settings.tag = table.read("tag", text);
    table.set("nonce", &mut settings.nonce, Value::boolean);
    settings.digest_body = table.read("digest_body", memory_size);
    table.finish(&[
        ("keyid", "key_id"),
        ("id", "key_id"),
        ("alg", "algorithm"),
        ("key", "private_key` or `secret"),
        ("covered", "components"),
        ("fields", "components"),
        ("headers", "components"),
        ("ttl", "expires"),
        ("max_body", "digest_body"),
    ]);
    key_id?;
    key?;
    Some(settings)
}

/// Keeps what may be a secret out of every report, whatever its key is called.
pub(super) fn conceal_secrets(table: &Table<'_>) {
    const SHOWN: [&str; 12] = [
        "key_id",
        "id",
        "name",
        "algorithm",
        "scopes",
        "components",
        "expires",
        "label",
        "tag",
        "nonce",
        "digest_body",
        "secret_encoding",
    ];
    for (key, _, value) in table.entries() {
        let file = matches!(&*key, "private_key" | "public_key");
        let names_file = file && value.string("").is_ok_and(|text| !is_pem(text));
        let place =
            value.string("").is_ok_and(|text| says_where(text) && !text.starts_with("sha256:"));
        if !(SHOWN.contains(&&*key) || names_file || place) {
            value.conceal();
        }
    }
}

/// Which algorithm, if one is named.
pub(super) fn algorithm(table: &mut Table<'_>) -> Option<Algorithm> {
    let words = Algorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
    table.read("algorithm", |v| v.word(&words))
}

fn signing_key(table: &mut Table<'_>, base: &Path) -> Option<SigningKey> {
    let named = algorithm(table);
    let wrong_algorithm = named.is_none() && table.has("algorithm");
    let secret = shared_secret(table, base);
    let file = table.value("private_key");
    if table.has("secret") == file.is_some() {
        let hint = "`secret = \"env:NAME\"` for hmac-sha256, or `private_key = \"key.pem\"`";
        table.complain("expected either `secret` or `private_key`", Some(hint.to_owned()));
        return None;
    }
    if let Some(file) = file {
        let Some(algorithm) = named else {
            if !wrong_algorithm {
                table.complain("the key `algorithm` is missing: what the private key is for", None);
            }
            return None;
        };
        return file.fit(|v| {
            let der = read_pem(v, base, pem::read_key)?;
            SigningKey::private(algorithm, der.secret_der()).map_err(|error| rejected(&error))
        });
    }
    if let Some(other) = named.filter(|named| !named.is_symmetric()) {
        table.complain(format!("`{other}` takes a `private_key` and no `secret`"), None);
        return None;
    }
    let (value, secret) = secret?;
    value.fit(|_| SigningKey::secret(&secret).map_err(|error| rejected(&error)))
}

/// The bytes of `secret`, as `secret_encoding` says, with where they were named.
pub(super) fn shared_secret<'a>(
    table: &mut Table<'a>,
    base: &Path,
) -> Option<(Value<'a>, Zeroizing<Vec<u8>>)> {
    let base64 = table.read("secret_encoding", |v| v.word(&[("text", false), ("base64", true)]));
    let value = table.value("secret")?;
    let bytes = value.fit(|v| {
        const WAYS: &str = "write \"env:NAME\" or \"file:PATH\"";
        if v.string("where the secret stands")?.starts_with("sha256:") {
            return Err(Misfit::new("by a digest nothing can be signed or verified").hint(WAYS));
        }
        let text = match secret(v, base, "secret") {
            Ok(Secret::Read(text)) => text,
            Ok(Secret::Digest(_)) => return Err(Misfit::new("expected a secret").hint(WAYS)),
            Err(misfit) => return Err(misfit),
        };
        if base64 != Some(true) {
            return Ok(Zeroizing::new(text.as_bytes().to_vec()));
        }
        let decoded = STANDARD.decode(text.trim()).map(Zeroizing::new);
        decoded.map_err(|_| Misfit::new("the secret is not base64 (RFC 4648 §4)"))
    })?;
    Some((value, bytes))
}

/// Whether a key was pasted where the name of its file belongs.
fn is_pem(text: &str) -> bool {
    text.contains("-----") || text.contains('\n')
}

/// A file of keys, that is watched for others to stand in it.
pub(super) fn read_pem<T>(
    value: &Value<'_>,
    base: &Path,
    read: fn(&Path) -> Result<T, PemError>,
) -> Fits<T> {
    let text = value.string("the path of a PEM file")?;
    if is_pem(text) {
        let misfit = Misfit::new("a key does not stand in the configuration itself");
        return Err(misfit.hint("name the file that it stands in"));
    }
    let path = base.join(text);
    value.comes_from(&path);
    read(&path).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Misfit::new(format!("{error}{}", cause.unwrap_or_default()))
    })
}

pub(super) fn rejected(error: &KeyRejected) -> Misfit {
    Misfit::new(error.to_string())
}

/// Printable ASCII that is not empty.
pub(super) fn text(value: &Value<'_>) -> Fits<String> {
    const WHAT: &str = "a text of printable ASCII characters";
    match value.string(WHAT)? {
        text if !text.is_empty() && SignSettings::is_text(text) => Ok(text.to_owned()),
        _ => Err(Misfit::new(format!("expected {WHAT}"))),
    }
}

/// A component of a request.
pub(super) fn component(value: &Value<'_>) -> Fits<Component> {
    const WHAT: &str = "a component such as \"@method\", \"@path\" or \"content-type\"";
    let text = value.string(WHAT)?;
    text.parse::<Component>().map_err(|_| {
        let misfit = Misfit::new(format!("`{text}` is not {WHAT}"));
        match text.to_ascii_lowercase() {
            lower if lower != text => misfit.hint(format!("did you mean \"{lower}\"?")),
            _ => misfit,
        }
    })
}

/// A component that reaches the other end as it is.
fn covered(value: &Value<'_>) -> Fits<Component> {
    let component = component(value)?;
    if component.field() == Some(&header::HOST) {
        let misfit = Misfit::new("`host` is no field in HTTP/2");
        return Err(misfit.hint("\"@authority\" is the same in every version"));
    }
    if let Some(name) = component.field() {
        let managed = format!("`{name}` belongs to the connection and cannot be signed");
        field_name(name.as_str()).map_err(|_| Misfit::new(managed))?;
    }
    Ok(component)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    fn report(sign: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "hunter2-of-many-letters").unwrap();
        std::fs::write(dir.path().join("short"), "hunter2").unwrap();
        std::fs::write(dir.path().join("empty.pem"), "").unwrap();
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nname = \"a\"\nupstream = \"a\"\n\
             [[upstream]]\nname = \"a\"\norigins = [\"http://127.0.0.1:1\"]\n\
             [upstream.sign]\n{sign}\n"
        );
        let parsed = parse(&dir.path().join(Path::new("config.toml")), &text);
        parsed.map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn what_cannot_be_signed_with_is_told_and_never_shown() {
        assert_eq!(report("key_id = \"a\"\nsecret = \"file:secret\""), "");
        for (sign, complaint) in [
            ("secret = \"file:secret\"", "the key `key_id` is missing"),
            ("key_id = \"a\"", "expected either `secret` or `private_key`"),
            ("key_id = \"a\"\nsecret = \"hunter2-pasted\"", "does not stand in the configuration"),
            ("key_id = \"a\"\nsecret = \"sha256:00\"", "by a digest nothing can be signed"),
            ("key_id = \"a\"\nsecret = \"file:short\"", "needs at least 16 bytes"),
            (
                "key_id = \"a\"\nsecret = \"file:secret\"\nsecret_encoding = \"base64\"",
                "is not base64",
            ),
            (
                "key_id = \"a\"\nsecret = \"file:secret\"\nalgorithm = \"ed25519\"",
                "takes a `private_key`",
            ),
            ("key_id = \"a\"\nprivate_key = \"empty.pem\"", "the key `algorithm` is missing"),
            (
                "key_id = \"a\"\nalgorithm = \"ed25519\"\nprivate_key = \"empty.pem\"",
                "holds no private key",
            ),
            (
                "key_id = \"a\"\nalgorithm = \"ed25519\"\n\
                 private_key = \"-----BEGIN PRIVATE KEY-----hunter2\"",
                "name the file that it stands in",
            ),
            ("key_id = \"\u{e9}\"\nsecret = \"file:secret\"", "printable ASCII"),
            ("key_id = \"a\"\nkey = \"hunter2\"", "here it is `private_key` or `secret`"),
        ] {
            let report = report(sign);
            assert!(report.contains(complaint), "{sign}: {report}");
            assert!(!report.contains("hunter2"), "{sign}: {report}");
        }
    }

    #[test]
    fn only_what_reaches_the_origin_as_it_is_can_be_covered() {
        let with = |component: &str| {
            report(&format!(
                "key_id = \"a\"\nsecret = \"file:secret\"\ncomponents = ['{component}']"
            ))
        };
        for fits in ["@method", "@target-uri", "x-any", "\"@query-param\";name=\"id\""] {
            assert_eq!(with(fits), "", "{fits}");
        }
        for (wrong, complaint) in [
            ("@status", "is not a component"),
            ("Content-Type", "did you mean \"content-type\"?"),
            ("host", "\"@authority\" is the same in every version"),
            ("content-length", "belongs to the connection"),
        ] {
            assert!(with(wrong).contains(complaint), "{wrong}: {}", with(wrong));
        }
    }
}
