//! `[auth.forward]`

use std::path::Path;

use http::header::{self, HeaderName};
use http::{Method, Uri};

use crate::config::reader::{Fits, Misfit, Table, Value};
use crate::config::units::{
    count, duration, duration_or_off, field_name, file, header_name, memory_size, size,
};
use crate::layers::{
    DecisionCacheSettings, ForwardAuthSettings, KeyPart, ToldFields, begins_like, is_claim,
};

const KEY: &str = "\"header:NAME\", \"cookie:NAME\", \"method\", \"host\", \"path\", \"query\" or \
                   \"address\"";

pub(super) fn read(mut table: Table<'_>, base: &Path) -> Option<ForwardAuthSettings> {
    let asked = table.require("url", "where the service is asked", url);
    let mut settings = ForwardAuthSettings::new(asked.clone().unwrap_or_default());
    settings.send_body = table.read("send_body", memory_size);
    if settings.send_body.is_some() {
        settings.method = Method::POST;
    }
    table.set("method", &mut settings.method, |v| v.parsed::<Method>("a method"));
    if let Some(told) = told(&mut table) {
        settings.request_headers = told;
    }
    let set = table.list("response_headers", |v| set_by_it(v, &settings.request_headers));
    settings.response_headers = set.unwrap_or_default();
    settings.name_header = table.read("name_header", header_name);
    settings.scopes_header = table.read("scopes_header", header_name);
    if settings.scopes_header.is_some() && !table.has("name_header") {
        table.complain("`scopes_header` needs a `name_header`: whose scopes they are", None);
    }
    table.set("set_cookies", &mut settings.set_cookies, Value::boolean);
    table.set("pass_response", &mut settings.pass_response, Value::boolean);
    table.set("on_failure", &mut settings.open_on_failure, |v| {
        v.word(&[("closed", false), ("open", true)])
    });
    table.set("timeout", &mut settings.timeout, duration);
    table.set("max_response", &mut settings.max_response, size);
    table.set("max_in_flight", &mut settings.max_in_flight, count);
    let ca = table.value("ca");
    if let (Some(ca), Some("http")) = (&ca, asked.as_ref().and_then(Uri::scheme_str)) {
        ca.complain("the certificates are for TLS", Some("write `https://` in `url`".to_owned()));
    }
    settings.ca = ca.and_then(|value| value.fit(|value| file(value, base)));
    settings.cache = table.table("cache").and_then(|table| cache(table, &settings));
    table.finish(&[
        ("address", "url"),
        ("uri", "url"),
        ("auth_url", "url"),
        ("auth_request_headers", "request_headers"),
        ("auth_response_headers", "response_headers"),
        ("copy_headers", "response_headers"),
        ("forward_body", "send_body"),
        ("max_body_size", "send_body"),
        ("add_auth_cookies_to_response", "set_cookies"),
        ("identity_header", "name_header"),
    ]);
    asked?;
    Some(settings)
}

fn url(value: &Value<'_>) -> Fits<Uri> {
    const WHAT: &str = "a URL such as \"http://auth.internal/verify\"";
    if value.string(WHAT)?.contains('@') {
        value.conceal();
        return Err(Misfit::new("a URL of a service has no user's name or password in it"));
    }
    let url = value.parsed::<Uri>(WHAT)?;
    match url.scheme_str() {
        Some("http" | "https") => Ok(url),
        _ => Err(Misfit::new(format!("expected {WHAT}"))),
    }
}

/// A list of fields, or `"*"` for all.
fn told(table: &mut Table<'_>) -> Option<ToldFields> {
    let value = table.value("request_headers")?;
    if value.string("").is_ok_and(|text| text == "*") {
        return Some(ToldFields::All);
    }
    let names = table.list("request_headers", |v| {
        let name = header_name(v)?;
        let text = name.as_str();
        let told = ["x-forwarded-", "x-original-", "x-request-id"];
        if told.iter().any(|start| begins_like(text, start)) || is_claim(text) {
            let misfit = Misfit::new(format!("`{name}` is not taken from the client"));
            return Err(misfit.hint(
                "the service is told of the request in any case, and of the client's address \
                 by `X-Forwarded-For` and `X-Real-IP`",
            ));
        }
        if begins_like(text, "if-") || name == header::RANGE {
            let misfit = Misfit::new(format!("`{name}` is about the origin's answer"));
            return Err(misfit.hint("a service that heeds it does not say who may come in"));
        }
        Ok(name)
    });
    names.map(ToldFields::These)
}

/// A field that the service sets, and nobody else.
fn set_by_it(value: &Value<'_>, told: &ToldFields) -> Fits<HeaderName> {
    let name = header_name(value)?;
    let credentials = [header::AUTHORIZATION, header::COOKIE];
    match told {
        ToldFields::These(told) if told.contains(&name) && !credentials.contains(&name) => {
            let message =
                format!("`{name}` is asked of the client in `request_headers`, and set as well");
            Err(Misfit::new(message).hint("nobody could tell whose word it is"))
        }
        _ => Ok(name),
    }
}

fn cache(mut table: Table<'_>, of: &ForwardAuthSettings) -> Option<DecisionCacheSettings> {
    if !table.has("key") {
        let hint = "key = [\"header:authorization\"]".to_owned();
        table.complain("the key `key` is missing: what decisions depend on", Some(hint));
    }
    let key = table.list("key", key_part);
    let mut cache = DecisionCacheSettings::by(key.clone().unwrap_or_default());
    if key.is_some() && !cache.tells_clients_apart() {
        let hint = "such as \"header:authorization\" or \"cookie:session\"".to_owned();
        table.complain("with this `key` one client's decision would be every client's", Some(hint));
    }
    table.set("ttl", &mut cache.ttl, duration);
    table.set("negative_ttl", &mut cache.negative_ttl, duration_or_off);
    table.set("memory", &mut cache.memory, size);
    if of.send_body.is_some() {
        table.complain("with `send_body` each request has a decision of its own", None);
    }
    table.finish(&[("keys", "key"), ("max_age", "ttl"), ("size", "memory")]);
    key?;
    Some(cache)
}

fn key_part(value: &Value<'_>) -> Fits<KeyPart> {
    let text = value.string(KEY)?;
    match text.split_once(':') {
        Some(("header", name)) if is_claim(name) || begins_like(name, "x-forwarded-") => {
            let misfit = Misfit::new(format!("`{name}` is whatever the client says"));
            Err(misfit.hint("the client's address is `\"address\"`"))
        }
        Some(("header", name)) => Ok(KeyPart::Header(field_name(name)?)),
        Some(("cookie", name)) if is_cookie(name) => Ok(KeyPart::Cookie(name.to_owned())),
        Some(("cookie", name)) => Err(Misfit::new(format!("`{name}` names no cookie"))),
        _ => match text {
            "method" => Ok(KeyPart::Method),
            "host" => Ok(KeyPart::Host),
            "path" => Ok(KeyPart::Path),
            "query" => Ok(KeyPart::Query),
            "address" => Ok(KeyPart::Address),
            _ => Err(Misfit::new(format!("expected {KEY}, found `{text}`"))),
        },
    }
}

fn is_cookie(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"=;,\"".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    fn report(forward: &str) -> String {
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nname = \"a\"\nrespond = {{}}\nauth = \"a\"\n\
             [[auth]]\nname = \"a\"\n[auth.forward]\n{forward}\n"
        );
        let parsed = parse(Path::new("config.toml"), &text);
        parsed.map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn what_would_let_the_wrong_ones_in_is_refused() {
        const URL: &str = "url = \"http://auth.test/verify\"\n";
        assert_eq!(report(URL), "");
        for (lines, complaint) in [
            ("", "the key `url` is missing"),
            ("url = \"auth.test/verify\"", "is not a URL such as"),
            ("url = \"ftp://auth.test/\"", "expected a URL such as"),
            ("url = \"http://bob:hunter2@auth.test/\"", "no user's name or password"),
            ("response_headers = [\"Connection\"]", "belongs to the connection"),
            ("response_headers = [\"Accept\"]", "nobody could tell whose word it is"),
            ("request_headers = [\"X-Forwarded-Uri\"]", "is not taken from the client"),
            ("request_headers = [\"X_Original_Method\"]", "is not taken from the client"),
            ("request_headers = [\"X-Real-IP\"]", "by `X-Forwarded-For` and `X-Real-IP`"),
            ("request_headers = [\"Forwarded\"]", "is not taken from the client"),
            ("request_headers = [\"X_Client_IP\"]", "is not taken from the client"),
            ("request_headers = [\"If-None-Match\"]", "is about the origin's answer"),
            ("scopes_header = \"X-Groups\"", "needs a `name_header`"),
            ("ca = \"Cargo.toml\"", "the certificates are for TLS"),
            ("on_failure = \"allow\"", "expected one of \"closed\", \"open\""),
            ("[auth.forward.cache]", "the key `key` is missing"),
            ("[auth.forward.cache]\nkey = [\"path\"]", "would be every client's"),
            ("[auth.forward.cache]\nkey = [\"cookie:a=b\"]", "names no cookie"),
            (
                "send_body = 10\n[auth.forward.cache]\nkey = [\"address\"]",
                "each request has a decision of its own",
            ),
            ("auth_url = \"x\"", "here it is `url`"),
        ] {
            let text = if lines.starts_with("url") || lines.is_empty() {
                lines.to_owned()
            } else {
                format!("{URL}{lines}")
            };
            let report = report(&text);
            assert!(report.contains(complaint), "{lines}: {report}");
            assert!(!report.contains("hunter2"), "{lines}: {report}");
        }
    }

    #[test]
    fn credentials_may_take_the_place_of_the_clients() {
        let lines = "url = \"http://auth.test/\"\nresponse_headers = [\"Authorization\"]\n\
                     request_headers = \"*\"\n";
        assert_eq!(report(lines), "");
    }
}
