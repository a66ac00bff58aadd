//! The configurations in the documents are such that `tollgate check` takes them: each is
//! written to a folder with the files that it names, and checked by the program.

use std::path::Path;
use std::process::Command;

use rcgen::KeyPair;
use tempfile::TempDir;

use crate::docs::{blocks, read};
use crate::support::certs::Authority;

/// The documents whose configurations are checked by the program.
const DOCUMENTS: [&str; 2] = ["docs/auth.md", "docs/rate-limits.md"];

const LISTENER: &str = "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n";

const UPSTREAM: &str = "[[upstream]]\nname = \"site\"\norigins = [\"http://127.0.0.1:3000\"]\n";

const ROUTE: &str = "[[route]]\nname = \"else\"\npath = \"/else\"\nrespond = {}\n";

/// A secret of a length that suits every use.
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What stands in double quotes, word by word.
fn quoted(block: &str) -> impl Iterator<Item = &str> {
    block.lines().flat_map(|line| line.split('"').skip(1).step_by(2))
}

/// Makes the files that a configuration names.
fn files(dir: &Path, block: &str) {
    let (authority, key) = (Authority::of_clients("clients"), KeyPair::generate().unwrap());
    for word in quoted(block) {
        let file = word.strip_prefix("file:").unwrap_or(word);
        let (path, name) = (dir.join(file), Path::new(file));
        let extension = name.extension().and_then(|extension| extension.to_str());
        if path.exists() || file.contains("://") || file.contains('*') {
            continue;
        }
        let content = match extension {
            _ if word.starts_with("file:") => SECRET.to_owned(),
            Some("htpasswd") => HTPASSWD.to_owned(),
            Some("crt" | "key") => {
                let stem = name.with_extension("");
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                authority.sign(dir, &stem.to_string_lossy(), &["a.test"]);
                continue;
            }
            Some("pem") if file.contains("public") => key.public_key_pem(),
            Some("pem") if file.contains("private") => key.serialize_pem(),
            Some("pem") => authority.pem(),
            Some("crl") => authority.revoking(&[]),
            Some("toml") => KEYS.to_owned(),
            _ => continue,
        };
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
    }
}

/// `alice` with the password `hunter2`.
const HTPASSWD: &str = "alice:$2y$04$abcdefghijklmnopqrstuu5s8.rHBJqLhh8u6fXUHC5vFqb/cM0Zu\n";

const KEYS: &str = "[[key]]\nname = \"alice\"\nkey = \
                    \"sha256:6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0\"\n";

#[test]
fn every_configuration_is_one_that_can_be_used() {
    for document in DOCUMENTS {
        let mut checked = 0;
        for (info, block) in blocks(&read(document)) {
            if !matches!(info, "toml" | "toml fragment") {
                continue;
            }
            let needs = |table: &str| info == "toml fragment" && !block.contains(table);
            let mut toml = block.clone();
            for (table, text) in
                [("[[listener]]", LISTENER), ("[[upstream]]", UPSTREAM), ("[[route]]", ROUTE)]
            {
                if needs(table) {
                    toml.push_str(text);
                }
            }
            let dir = TempDir::new().unwrap();
            files(dir.path(), &block);
            std::fs::write(dir.path().join("config.toml"), &toml).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
            command.args(["check", "--config", "config.toml"]).current_dir(dir.path());
            for variable in quoted(&block).filter_map(|word| word.strip_prefix("env:")) {
                command.env(variable, SECRET);
            }
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{document}:\n{toml}\n{said}");
            checked += 1;
        }
        assert!(checked > 0, "{document}");
    }
}
