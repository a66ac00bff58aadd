//! What a route's compression is told.

use std::fmt;
use std::str::FromStr;

/// Which responses are compressed, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CompressionSettings {
    /// The codings that are offered, in the order of preference among those that a
    /// client likes equally well. Default `zstd`, `br`, `gzip`.
    pub codings: Vec<ContentCoding>,
    /// The types of content that are compressed. Default
    /// [`MediaPattern::compressible`]. Event streams and gRPC never are.
    pub types: Vec<MediaPattern>,
    /// The shortest content that is compressed, where its length is known, in bytes.
    /// Default 1 KiB.
    pub min_length: u64,
    /// How much work is spent. Default [`CompressionLevel::Default`].
    pub level: CompressionLevel,
    /// Whether responses are compressed that may hold a secret: those to requests with
    /// `Cookie`, `Authorization` or an API key that do not say `public` or `s-maxage`,
    /// and those with `Set-Cookie` that do not say `public`. Who can have a part of such
    /// a response be its own words can guess the rest by its length (BREACH). Default
    /// false.
    pub with_credentials: bool,
}

impl Default for CompressionSettings {
    fn default() -> Self {
        Self {
            codings: ContentCoding::ALL.to_vec(),
            types: MediaPattern::compressible(),
            min_length: 1024,
            level: CompressionLevel::default(),
            with_credentials: false,
        }
    }
}

/// A content coding (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ContentCoding {
    /// Zstandard (RFC 8878), with windows that every client has to take (RFC 9659).
    Zstd,
    /// Brotli (RFC 7932).
    Brotli,
    /// gzip (RFC 1952).
    Gzip,
}

impl ContentCoding {
    /// All there are, the preferred ones first.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Whether this build can compress: it has the feature `compression`.
    pub const AVAILABLE: bool = cfg!(feature = "compression");

    /// Its registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

impl fmt::Display for ContentCoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much work is spent on compressing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CompressionLevel {
    /// Little: zstd 1, Brotli 2, gzip 4.
    Fast,
    /// For responses that are made for each request: zstd 3, Brotli 4, gzip 6.
    #[default]
    Default,
    /// For what a cache keeps: zstd 7, Brotli 6, gzip 9.
    Best,
}

impl CompressionLevel {
    /// The level as one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Default => "default",
            Self::Best => "best",
        }
    }
}

/// Types of content: one, all of a kind, or all with an ending.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MediaPattern {
    /// `application/json`
    Type(Box<str>),
    /// `text/*`: what it begins with, with the slash.
    Kind(Box<str>),
    /// `+json`: what it ends in (RFC 6838 §4.2.8), with the plus.
    Suffix(Box<str>),
}

impl MediaPattern {
    /// The types that are compressed by default: text, and what is known to be written
    /// such that it can be made much shorter.
    #[must_use]
    pub fn compressible() -> Vec<Self> {
        let types = [
            "application/javascript",
            "application/json",
            "application/wasm",
            "application/x-javascript",
            "application/x-ndjson",
            "application/xml",
            "application/vnd.apple.mpegurl",
            "application/vnd.ms-fontobject",
            "font/otf",
            "font/ttf",
            "image/bmp",
            "image/vnd.microsoft.icon",
            "image/x-icon",
        ];
        let (kind, suffixes) = (Self::Kind("text/".into()), ["+json", "+xml"]);
        let types = types.into_iter().map(|name| Self::Type(name.into()));
        let suffixes = suffixes.into_iter().map(|name| Self::Suffix(name.into()));
        std::iter::once(kind).chain(types).chain(suffixes).collect()
    }

    /// Whether it is one of these. `essence` is a type without its parameters, in any
    /// case.
    #[must_use]
    pub fn matches(&self, essence: &str) -> bool {
        let essence = essence.as_bytes();
        match self {
            Self::Type(name) => essence.eq_ignore_ascii_case(name.as_bytes()),
            Self::Kind(start) => essence
                .get(..start.len())
                .is_some_and(|found| found.eq_ignore_ascii_case(start.as_bytes())),
            Self::Suffix(end) => essence
                .len()
                .checked_sub(end.len())
                .and_then(|at| essence.get(at..))
                .is_some_and(|found| found.eq_ignore_ascii_case(end.as_bytes())),
        }
    }
}

impl FromStr for MediaPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        let token = |part: &str| {
            let other = |byte| b"!#$&-^_.+".contains(&byte);
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || other(byte))
        };
        let wrong = || format!("`{text}` is no type of content");
        if let Some(suffix) = text.strip_prefix('+') {
            return if token(suffix) { Ok(Self::Suffix(text.into())) } else { Err(wrong()) };
        }
        match text.split_once('/') {
            Some((kind, "*")) if token(kind) => Ok(Self::Kind(format!("{kind}/").into())),
            Some((kind, name)) if token(kind) && token(name) => Ok(Self::Type(text.into())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for MediaPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(name) | Self::Suffix(name) => f.write_str(name),
            Self::Kind(start) => write!(f, "{start}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressible(essence: &str) -> bool {
        MediaPattern::compressible().iter().any(|pattern| pattern.matches(essence))
    }

    #[test]
    fn text_and_what_is_like_it_is_compressible_and_nothing_else() {
        for yes in [
            "text/html",
            "Text/CSS",
            "application/json",
            "application/problem+json",
            "image/svg+xml",
            "application/wasm",
            "font/ttf",
        ] {
            assert!(compressible(yes), "{yes}");
        }
        for no in
            ["image/png", "font/woff2", "video/mp4", "application/zip", "textual/x", "json", ""]
        {
            assert!(!compressible(no), "{no}");
        }
    }

    #[test]
    fn patterns_are_read_and_written_alike() {
        for text in ["text/*", "application/json", "+json"] {
            assert_eq!(text.parse::<MediaPattern>().unwrap().to_string(), text);
        }
        for wrong in ["", "text", "*/*", "text/", "/x", "text/html; charset=utf-8", "+", "a b/c"] {
            assert!(wrong.parse::<MediaPattern>().is_err(), "{wrong}");
        }
    }
}
