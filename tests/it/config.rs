//! What a configuration file says, and what is said of a wrong one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;
use tollgate::config::{Settings, parse};

const SAMPLE: &str = include_str!("../../config.toml");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Compares with a file in `golden/`; `UPDATE_GOLDEN=1` writes it anew.
fn golden(name: &str, report: &str) {
    let path = root().join("tests/it/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, report).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(report, expected, "{name} differs; UPDATE_GOLDEN=1 takes the new one");
}

fn report(name: &str, text: &str) -> String {
    format!("{}\n", parse(Path::new(name), text).unwrap_err())
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = include_str!("golden/everything-wrong.toml");
    let error = parse(Path::new("everything-wrong.toml"), text).unwrap_err();
    assert!(error.problems().len() >= 35, "{}", error.problems().len());
    for problem in error.problems() {
        assert!(problem.line >= 1 && problem.column >= 1, "{problem:?}");
    }
    let report = format!("{error}\n");
    let shown: Vec<&str> = report.lines().filter(|line| line.contains("hunter2")).collect();
    assert!(shown.is_empty(), "a secret is shown: {shown:?}");
    golden("everything-wrong.txt", &report);
}

#[test]
fn limits_that_cannot_be_meant_are_refused() {
    let text = include_str!("golden/limits.toml");
    golden("limits.txt", &report("limits.toml", text));
}

#[test]
fn a_file_that_is_no_toml_says_where_it_breaks() {
    golden("syntax.txt", &report("syntax.toml", "[server]\nworkers = = 2\n[[listener]\n"));
}

#[test]
fn what_follows_from_a_mistake_is_not_said_beside_it() {
    let with = |auth: &str, route: &str| {
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n{auth}\n\
             [[route]]\nname = \"a\"\nrespond = {{}}\nauth = \"one\"\n{route}\n"
        );
        parse(Path::new("x.toml"), &text).unwrap_err()
    };
    // The scheme is wrong, and the route that asks for it is not.
    for (auth, said) in [
        (
            "[[auth]]\nname = \"one\"\n[auth.jwt]\nsecret = \"env:NO_SUCH_VARIABLE_HERE\"",
            "no variable",
        ),
        ("[[auth]]\nname = \"one\"\n[auth.apikey]\nkeys = []", "did you mean `api_key`?"),
        ("[[auth]]\nname = \"one\"\n[auth.hmac]", "here it is `signature`"),
        ("[[auth]]\nname = \"one\"", "it has no scheme"),
    ] {
        let error = with(auth, "");
        assert_eq!(error.problems().len(), 1, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    // Where it is not there at all, that is said.
    let error = with("[[auth]]\nname = \"ones\"\n[auth.address]\nallow = [\"::1\"]", "");
    assert!(error.to_string().contains("did you mean `ones`?"), "{error}");
    // The route that takes the path of a login is wrong.
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let login = format!(
        "[[auth]]\nname = \"one\"\n[auth.oidc]\nissuer = \"https://id.test\"\nclient_id = \"a\"\n\
         cookie_secret = \"file:{}\"\n[[route]]\nname = \"b\"\npath = \"/.tollgate\"\n\
         respond = {{}}\nauth = \"one\"\nnonsense = 1\n[[route]]\nname = \"c\"\n\
         path = \"/.tollgate/callback\"\nupstream = \"none\"\nauth = \"one\"",
        secret.display()
    );
    let error = with(&login, "path = \"/a\"");
    assert_eq!(error.problems().len(), 2, "{error}");
}

#[test]
fn what_lets_nobody_in_is_told() {
    let dir = TempDir::new().unwrap();
    let with = |auth: &str, file: &str| {
        std::fs::write(dir.path().join("file"), file).unwrap();
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[[auth]]\nname = \"one\"\n\
             {auth}\n[[route]]\nname = \"a\"\nrespond = {{}}\nauth = \"one\"\n"
        );
        parse(&dir.path().join("x.toml"), &text)
    };
    for scheme in ["api_key", "basic"] {
        let by_file = format!("[auth.{scheme}]\nfile = \"file\"");
        for empty in ["", "\n \n", "\u{feff}"] {
            let report = with(&by_file, empty).unwrap_err().to_string();
            assert!(report.contains("is empty: nobody would be let in"), "{report}");
        }
        let meant = with(&by_file, "# nobody at present\n").unwrap();
        assert!(meant.warnings[0].contains("lets nobody in"), "{:?}", meant.warnings);
    }
    for (auth, said) in [
        ("[auth.api_key]\nkeys = []", "there is no key"),
        ("[auth.signature]\nkeys = []", "there is no key"),
        ("[auth.basic]\nusers = []", "there is no user"),
        ("[auth.api_key]\nredis = \"keys\"", "x.toml:7:9: `auth[0].api_key.redis`"),
        ("[auth.jwt]\nsecret = \"plain\"", "help: write \"env:NAME\" or \"file:PATH\"\n"),
    ] {
        let error = with(auth, "").unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn what_a_route_asks_is_told_how_it_is_written() {
    let with = |auth: &str, more: &str| {
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[[auth]]\nname = \"one\"\n\
             [auth.address]\nallow = [\"::1\"]\n\
             [[route]]\nname = \"a\"\nrespond = {{}}\nauth = {{ {auth} }}\n{more}\n"
        );
        parse(Path::new("x.toml"), &text).map_err(|error| error.to_string())
    };
    assert!(with("any = [\"one\"]", "").unwrap().warnings.is_empty());
    for (auth, more, said) in [
        ("any = [\"one\", \"one\"]", "", "is named twice"),
        ("any = \"one\", failures = \"none\"", "", "write \"unlimited\""),
        ("any = \"one\", failures = \"5\"", "", "expected { rate = 20, per = \"1m\" } or"),
        ("any = \"one\", failures = { rate = 0.5 }", "", "rate = 1 with per = \"2s\""),
        ("any = \"one\"", "rate_limit = { rate = 0.5 }", "rate = 1 with per = \"2s\""),
    ] {
        let report = with(auth, more).unwrap_err();
        assert!(report.contains(said), "{report}");
        assert!(report.ends_with("1 problem in x.toml"), "{report}");
    }
}

#[test]
fn a_key_is_not_shown_even_where_its_line_breaks() {
    for line in [
        "keys = [{ name = \"x\", key = \"hunter2\" ]",
        "key = 'hunter2",
        "key=\"hunter2",
        "api_key =  \"hunter2\" = 5",
    ] {
        let report = report("x.toml", line);
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn the_readme_shows_what_check_says_of_a_broken_sample() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let broken = SAMPLE.replace("upstream = \"demo\"", "upstream = \"dmo\"");
    let report = report("broken.toml", &broken);
    let problem = report.split("\n\n").find(|problem| problem.contains("`dmo`")).unwrap();
    assert!(readme.contains(problem), "not in README.md:\n{problem}");
}

#[test]
fn an_empty_file_says_what_it_needs() {
    golden("empty.txt", &report("empty.toml", ""));
}

/// The shipped file in a folder with the certificate that it names.
fn sample(text: &str) -> Settings {
    let dir = TempDir::new().unwrap();
    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    for file in ["demo.crt", "demo.key"] {
        std::fs::write(certs.join(file), "").unwrap();
    }
    let path = dir.path().join("config.toml");
    let mut settings = parse(&path, text).unwrap_or_else(|error| panic!("{error}"));
    for listener in &mut settings.listeners {
        // The folder differs from call to call.
        listener.tls.as_mut().unwrap().certificates.clear();
    }
    settings
}

#[test]
fn the_sample_is_sound_and_shows_true_defaults() {
    let plain = sample(SAMPLE);
    assert_eq!(plain.routes.len(), 3);
    let with_defaults: String = SAMPLE
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("#! ").unwrap_or(line)))
        .collect();
    assert!(SAMPLE.matches("\n#! ").count() > 30);
    let mut spelt_out = sample(&with_defaults);
    // How many cores there are is no default that a file can spell out.
    assert_eq!(spelt_out.server.workers, Some(2));
    spelt_out.server.workers = plain.server.workers;
    assert_eq!(format!("{spelt_out:#?}"), format!("{plain:#?}"));
}

#[test]
fn the_limits_of_http2_are_read_and_checked() {
    let with = |lines: &str| {
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[listener.h2]\n{lines}\n\
             [[route]]\nname = \"a\"\nrespond = {{}}\n"
        );
        parse(Path::new("h2.toml"), &text).map(|settings| settings.listeners[0].serve.h2.clone())
    };
    let h2 = with(
        "max_frame_size = \"32KiB\"\nmax_header_list = \"8KiB\"\nsend_buffer = \"1KiB\"\n\
         max_resets = 1\nmax_pending_resets = 2\nmax_error_resets = 3\nmax_control_frames = 4",
    )
    .unwrap();
    assert_eq!((h2.max_frame_size, h2.max_header_list), (32 * 1024, Some(8 * 1024)));
    assert_eq!((h2.send_buffer, h2.max_resets, h2.max_pending_resets), (1024, 1, 2));
    assert_eq!((h2.max_error_resets, h2.max_control_frames), (3, 4));
    for (line, complaint) in [
        ("max_frame_size = 16383", "expected a size from 16KiB (16384) to 16MiB - 1 (16777215)"),
        (
            "max_frame_size = \"16MiB\"",
            "expected a size from 16KiB (16384) to 16MiB - 1 (16777215)",
        ),
        ("max_header_list = \"4GiB\"", "expected a size of less than 4GiB"),
        ("max_control_frames = 0", "expected a number from 1 to 4294967295"),
        ("max_resets = 0", "expected a number from 1 to 4294967295"),
        ("max_reset = 1", "did you mean `max_resets`?"),
    ] {
        let report = with(line).unwrap_err().to_string();
        assert!(report.contains(complaint), "{line}: {report}");
    }
}

#[test]
fn every_key_is_documented() {
    let docs = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut keys = BTreeSet::new();
    for file in [
        "admin.rs",
        "auth/address.rs",
        "auth/api_key.rs",
        "auth/forward.rs",
        "auth/mod.rs",
        "auth/mtls.rs",
        "auth/signature.rs",
        "cache.rs",
        "client_auth.rs",
        "compression.rs",
        "dns.rs",
        "limits.rs",
        "listeners.rs",
        "rate_limits.rs",
        "redis.rs",
        "routes.rs",
        "server.rs",
        "signing.rs",
        "upstreams.rs",
    ] {
        let code = std::fs::read_to_string(root().join("src/config").join(file)).unwrap();
        let calls = ["read", "set", "require", "list", "table", "tables", "one_or_more", "value"];
        for call in calls {
            for part in code.split(&format!(".{call}(")).skip(1) {
                if let Some(rest) = part.trim_start().strip_prefix('"') {
                    keys.insert(rest.split('"').next().unwrap().to_owned());
                }
            }
        }
    }
    assert!(keys.len() > 60, "{keys:?}");
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| {
            let named = [format!("`{key}`"), format!("[{key}]"), format!(".{key}]")];
            !named.iter().any(|name| docs.contains(name.as_str()))
        })
        .collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,400}") {
        let _ = parse(Path::new("x.toml"), &text).map_err(|error| error.to_string());
    }

    #[test]
    fn no_change_of_the_sample_makes_the_reader_panic(
        at in 0..SAMPLE.len(),
        length in 0..40_usize,
        with in "[\\[\\]={}\"',.#a-z0-9é\n -]{0,12}",
    ) {
        prop_assume!(SAMPLE.is_char_boundary(at));
        let end = (at + length).min(SAMPLE.len());
        prop_assume!(SAMPLE.is_char_boundary(end));
        let text = format!("{}{with}{}", &SAMPLE[..at], &SAMPLE[end..]);
        let _ = parse(Path::new("x.toml"), &text).map_err(|error| error.to_string());
    }
}
