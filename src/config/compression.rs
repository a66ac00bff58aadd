//! `[route.compression]`

use super::reader::{Fits, Misfit, Table, Value};
use super::units::size;
use crate::layers::{CompressionLevel, CompressionSettings, ContentCoding, MediaPattern};

const LEVELS: [(&str, CompressionLevel); 3] = [
    ("fast", CompressionLevel::Fast),
    ("default", CompressionLevel::Default),
    ("best", CompressionLevel::Best),
];

pub(super) fn of_route(mut table: Table<'_>) -> CompressionSettings {
    if !ContentCoding::AVAILABLE {
        let hint = "build it with the feature `compression`";
        table.complain("this build cannot compress", Some(hint.to_owned()));
    }
    let mut compression = CompressionSettings::default();
    if let Some(codings) = codings(&mut table) {
        compression.codings = codings;
    }
    if let Some(types) = table.list("types", media_pattern) {
        if types.is_empty() {
            let hint = "leave the table `compression` out to compress nothing";
            table.complain("`types` has to name at least one", Some(hint.to_owned()));
        }
        compression.types = types;
    }
    table.set("min_length", &mut compression.min_length, size);
    table.set("level", &mut compression.level, |v| v.word(&LEVELS));
    table.set("with_credentials", &mut compression.with_credentials, Value::boolean);
    table.finish(&[
        ("algorithms", "codings"),
        ("encodings", "codings"),
        ("mime_types", "types"),
        ("content_types", "types"),
        ("min_size", "min_length"),
        ("quality", "level"),
    ]);
    compression
}

fn codings(table: &mut Table<'_>) -> Option<Vec<ContentCoding>> {
    let words = ContentCoding::ALL.map(|coding| (coding.as_str(), coding));
    let codings = table.list("codings", |v| v.word(&words))?;
    let twice = codings.iter().enumerate().any(|(at, coding)| codings[..at].contains(coding));
    if twice || codings.is_empty() {
        let hint = "the order is that of preference: [\"zstd\", \"br\", \"gzip\"]";
        table.complain(
            "`codings` has to name each coding once, and at least one",
            Some(hint.to_owned()),
        );
    }
    Some(codings)
}

fn media_pattern(value: &Value<'_>) -> Fits<MediaPattern> {
    let text = value.string("a type of content such as \"text/*\"")?;
    let pattern: MediaPattern = text.parse().map_err(|wrong| {
        Misfit::new(wrong)
            .hint("write \"application/json\", \"text/*\" or \"+json\", without parameters")
    })?;
    for never in ["text/event-stream", "application/grpc"] {
        if matches!(&pattern, MediaPattern::Type(name) if name.starts_with(never)) {
            return Err(Misfit::new(format!("{never} is never compressed")));
        }
    }
    Ok(pattern)
}
