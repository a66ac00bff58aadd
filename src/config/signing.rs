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
        // A key that was pasted where its file's name belongs has more than one line.
        let names_file = file && value.string("").is_ok_and(|text| !text.contains(['\n', '-']));
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

/// A file of keys, that is watched for others to stand in it.
pub(super) fn read_pem<T>(
    value: &Value<'_>,
    base: &Path,
    read: fn(&Path) -> Result<T, PemError>,
) -> Fits<T> {
    let path = base.join(value.string("the path of a PEM file")?);
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
