//! Values that are more than a TOML type: durations, sizes, networks, names,
//! secrets.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{self, HeaderName};
use http::{HeaderValue, StatusCode, Uri};
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::reader::{Fits, Misfit, Value};
use crate::accept::ListenAddress;
use crate::layers::KeyDigest;
use crate::pace::MinRate;

/// The longest time there is: what adds some up, or keeps something for that long, can.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// A time of at least a millisecond, such as `"1m 30s"`.
pub(super) fn duration(value: &Value<'_>) -> Fits<Duration> {
    match pause(value)? {
        parsed if parsed >= Duration::from_millis(1) => Ok(parsed),
        _ => Err(Misfit::new("expected a duration of at least 1ms")
            .hint("a timeout cannot be switched off; choose a long one instead")),
    }
}

/// A time, which may be none.
pub(super) fn pause(value: &Value<'_>) -> Fits<Duration> {
    const WHAT: &str = "a duration such as \"500ms\", \"10s\" or \"1m 30s\"";
    if !value.is_string() {
        return Err(value
            .string(WHAT)
            .err()
            .unwrap_or_else(|| Misfit::new(WHAT))
            .hint("write the unit: \"10s\" is ten seconds"));
    }
    let text = value.string(WHAT)?;
    match humantime::parse_duration(text) {
        Ok(parsed) if parsed <= LONGEST => Ok(parsed),
        Ok(_) => Err(Misfit::new("expected a duration of at most 100 years")),
        Err(error) => Err(Misfit::new(format!("`{text}` is not {WHAT}: {error}"))),
    }
}

/// A time, or none at all for `"off"`.
pub(super) fn duration_or_off(value: &Value<'_>) -> Fits<Duration> {
    if value.is_string() && value.string("a duration")? == "off" {
        return Ok(Duration::ZERO);
    }
    duration(value)
}

const SIZE: &str = "a size such as \"64KiB\" or \"10MB\", or a number of bytes";

/// A number of bytes, plain or such as `"64KiB"`.
pub(super) fn size(value: &Value<'_>) -> Fits<u64> {
    if !value.is_string() {
        return value.integer(SIZE, 1, i64::MAX.unsigned_abs());
    }
    text_size(value.string(SIZE)?)
}

fn text_size(text: &str) -> Fits<u64> {
    let wrong = || Misfit::new(format!("`{text}` is not {SIZE}"));
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(wrong().hint("units: B, KB, KiB, MB, MiB, GB, GiB")),
    };
    number.checked_mul(unit).filter(|size| *size > 0).ok_or_else(wrong)
}

/// Sets a least rate from its two keys: how fast, and how far behind one may fall.
pub(super) fn set_min_rate(
    min_rate: &mut Option<MinRate>,
    rate: Option<&Value<'_>>,
    grace: Option<&Value<'_>>,
) {
    let grace = grace.and_then(|value| value.fit(duration));
    let rate = rate.and_then(|value| value.fit(bytes_per_second));
    if let Some(rate) = rate {
        *min_rate = rate.map(|bytes| MinRate { bytes, ..min_rate.unwrap_or(MinRate::DEFAULT) });
    }
    if let (Some(min_rate), Some(grace)) = (min_rate, grace) {
        min_rate.grace = grace;
    }
}

/// Bytes in a second, such as `"240B/s"`; `None` for `"off"`.
fn bytes_per_second(value: &Value<'_>) -> Fits<Option<NonZeroU64>> {
    const WHAT: &str = "a rate such as \"240B/s\" or \"2KiB/s\", or \"off\"";
    match value.string(WHAT)? {
        "off" => Ok(None),
        text => text_rate(text, WHAT).map(Some),
    }
}

/// Bytes in a second, such as `"1MiB/s"`.
pub(super) fn bandwidth(value: &Value<'_>) -> Fits<NonZeroU64> {
    const WHAT: &str = "a rate such as \"1MiB/s\"";
    text_rate(value.string(WHAT)?, WHAT)
}

fn text_rate(text: &str, what: &str) -> Fits<NonZeroU64> {
    let wrong = || Misfit::new(format!("`{text}` is not {what}"));
    let rate = text.strip_suffix("/s").and_then(|text| text_size(text.trim()).ok());
    rate.and_then(NonZeroU64::new).ok_or_else(wrong)
}

/// A size that fits the machine's memory.
pub(super) fn memory_size(value: &Value<'_>) -> Fits<usize> {
    let size = size(value)?;
    usize::try_from(size).map_err(|_| Misfit::new("the size is too large"))
}

/// A size that fits 31 bits, as HTTP/2 windows must (RFC 9113 §6.9.1).
pub(super) fn window(value: &Value<'_>) -> Fits<u32> {
    u32::try_from(size(value)?)
        .ok()
        .filter(|window| *window < 1 << 31)
        .ok_or_else(|| Misfit::new("expected a window of less than 2GiB"))
}

/// The length of a frame's payload, as HTTP/2 allows it (RFC 9113 §4.2).
pub(super) fn frame_size(value: &Value<'_>) -> Fits<u32> {
    u32::try_from(size(value)?)
        .ok()
        .filter(|size| (1 << 14..1 << 24).contains(size))
        .ok_or_else(|| Misfit::new("expected a size from 16KiB (16384) to 16MiB - 1 (16777215)"))
}

/// A size that fits 32 bits.
pub(super) fn size_in_u32(value: &Value<'_>) -> Fits<u32> {
    u32::try_from(size(value)?).map_err(|_| Misfit::new("expected a size of less than 4GiB"))
}

/// A positive number.
pub(super) fn positive(value: &Value<'_>) -> Fits<NonZeroU32> {
    let number = value.integer("a number", 1, u64::from(u32::MAX))?;
    Ok(u32::try_from(number).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN))
}

/// How many requests are let through in a time.
pub(super) fn rate(value: &Value<'_>) -> Fits<NonZeroU32> {
    let misfit = |misfit: Misfit| match value.is_fraction() {
        true => misfit.hint("`per` is how long: rate = 1 with per = \"2s\" is one in two seconds"),
        false => misfit,
    };
    positive(value).map_err(misfit)
}

/// A positive number, as a count of things in memory.
pub(super) fn count(value: &Value<'_>) -> Fits<usize> {
    let number = value.integer("a number", 1, u64::from(u32::MAX))?;
    usize::try_from(number).map_err(|_| Misfit::new("the number is too large"))
}

/// A network such as `10.0.0.0/8`, or one address.
pub(super) fn network(value: &Value<'_>) -> Fits<IpNet> {
    const WHAT: &str = "a network such as \"10.0.0.0/8\" or an address";
    let text = value.string(WHAT)?;
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| Misfit::new(format!("`{text}` is not {WHAT}")))?,
    };
    if network != network.trunc() {
        return Err(Misfit::new(format!("`{text}` has bits set past its prefix"))
            .hint(format!("the network is `{}`", network.trunc())));
    }
    Ok(network)
}

/// A network, or `None` for the word `unix`: whoever connects over a Unix socket.
pub(super) fn network_or_unix(value: &Value<'_>) -> Fits<Option<IpNet>> {
    const WHAT: &str = "a network such as \"10.0.0.0/8\", an address, or \"unix\"";
    match value.string(WHAT)? {
        "unix" => Ok(None),
        text if text.contains(['.', ':']) => network(value).map(Some),
        text => Err(Misfit::new(format!("`{text}` is not {WHAT}"))),
    }
}

/// An address with a port, or the path of a Unix socket, which starts at `base` if
/// it is relative.
pub(super) fn listen_address(value: &Value<'_>, base: &Path) -> Fits<ListenAddress> {
    let what = "an address with a port, such as \"0.0.0.0:443\", or \"unix:/run/tollgate.sock\"";
    let Some(path) = value.string(what)?.strip_prefix("unix:") else {
        return socket_address(value).map(ListenAddress::Tcp);
    };
    if path.is_empty() || path.starts_with("//") || path.starts_with('@') {
        return Err(Misfit::new(format!("`unix:{path}` has no path"))
            .hint("write \"unix:/run/tollgate.sock\"; there are no abstract sockets here"));
    }
    socket_path(&base.join(path)).map(ListenAddress::Unix)
}

/// The path of a Unix socket, if the system takes one of that length.
pub(super) fn socket_path(path: &Path) -> Fits<PathBuf> {
    std::os::unix::net::SocketAddr::from_pathname(path)
        .map(|_| path.to_owned())
        .map_err(|error| Misfit::new(format!("`{}` is no socket: {error}", path.display())))
}

/// The mode of a file, such as `"0660"`.
pub(super) fn file_mode(value: &Value<'_>) -> Fits<u32> {
    const WHAT: &str = "the mode of a file in octal digits, such as \"0660\"";
    let text = value.string(WHAT)?;
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    let octal = text.len() >= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    mode.filter(|_| octal).ok_or_else(|| Misfit::new(format!("`{text}` is not {WHAT}")))
}

/// An address with a port.
pub(super) fn socket_address(value: &Value<'_>) -> Fits<SocketAddr> {
    const WHAT: &str = "an address with a port, such as \"0.0.0.0:443\" or \"[::]:443\"";
    let text = value.string(WHAT)?;
    text.parse().map_err(|_| {
        let misfit = Misfit::new(format!("`{text}` is not {WHAT}"));
        match text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
            Some(port) => misfit.hint(format!("for every address write \"0.0.0.0:{port}\"")),
            None if text.starts_with("localhost:") => misfit.hint("write 127.0.0.1 for localhost"),
            None => misfit,
        }
    })
}

/// The name of a field that may be rewritten.
pub(super) fn field_name(text: &str) -> Fits<HeaderName> {
    let name = HeaderName::try_from(text)
        .map_err(|_| Misfit::new(format!("`{text}` is not a field name")))?;
    let managed = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        HeaderName::from_static("keep-alive"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    if managed.contains(&name) {
        return Err(Misfit::new(format!(
            "`{name}` belongs to the connection and is not rewritten"
        )));
    }
    if name == header::HOST {
        return Err(Misfit::new("`host` is not rewritten as a field")
            .hint("the route's own key `host` says what the origin sees"));
    }
    Ok(name)
}

pub(super) fn header_name(value: &Value<'_>) -> Fits<HeaderName> {
    field_name(value.string("a field name")?)
}

pub(super) fn header_value(value: &Value<'_>) -> Fits<HeaderValue> {
    let text = value.string("a string")?;
    HeaderValue::from_str(text).map_err(|_| Misfit::new("a field value has no control characters"))
}

/// A token (RFC 9110 §5.6.2), such as the name of a cookie.
pub(super) fn token(value: &Value<'_>, what: &str) -> Fits<String> {
    let text = value.string(what)?;
    // Names of fields are tokens.
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Misfit::new(format!("expected {what}, without spaces and such"))),
    }
}

/// Where something is that is asked for over HTTP.
pub(super) fn web_url(value: &Value<'_>) -> Fits<Uri> {
    const WHAT: &str = "a URL such as \"https://id.example.com/keys\"";
    let text = value.string(WHAT)?;
    let url: Uri = text.parse().map_err(|_| Misfit::new(format!("expected {WHAT}")))?;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        value.conceal();
        return Err(Misfit::new("a URL has no name and password in it here"));
    }
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    if !is_web || authority.is_empty() || text.contains('#') {
        return Err(Misfit::new(format!("expected {WHAT}")));
    }
    Ok(url)
}

/// Whether what comes from there can be read and changed on its way: it is plain HTTP, from
/// another machine.
pub(super) fn is_plain_from_elsewhere(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    url.scheme_str() == Some("http") && !is_here
}

/// A status from `least` to `most`.
pub(super) fn status(value: &Value<'_>, least: u16, most: u16) -> Fits<StatusCode> {
    let number = value.integer("a status", u64::from(least), u64::from(most))?;
    u16::try_from(number)
        .ok()
        .and_then(|number| StatusCode::from_u16(number).ok())
        .ok_or_else(|| Misfit::new("expected a status"))
}

/// A file that is there and may be read; relative paths start at `base`.
pub(super) fn file(value: &Value<'_>, base: &Path) -> Fits<PathBuf> {
    let path = base.join(value.string("a path")?);
    match std::fs::File::open(&path) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_dir()) => {
            Err(Misfit::new(format!("{} is a folder, not a file", path.display())))
        }
        Ok(_) => Ok(path),
        Err(error) => {
            value.comes_from(&path);
            let misfit = Misfit::new(format!("{} cannot be read: {error}", path.display()));
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            Err(if missing && path.to_string_lossy().contains("demo") {
                misfit.hint("`tollgate demo` makes a self-signed certificate")
            } else {
                misfit
            })
        }
    }
}

/// The path and the text of a file; relative paths start at `base`.
pub(super) fn file_text(value: &Value<'_>, base: &Path) -> Fits<(PathBuf, String)> {
    let path = base.join(value.string("a path")?);
    value.comes_from(&path);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(error) => Err(Misfit::new(format!("{} cannot be read: {error}", path.display()))),
    }
}

/// A secret: the digest of it, or what was read from the environment or a file.
#[derive(Debug)]
pub(super) enum Secret {
    Digest(KeyDigest),
    Read(Zeroizing<String>),
}

impl Secret {
    pub(super) fn digest(&self) -> KeyDigest {
        match self {
            Self::Digest(digest) => *digest,
            Self::Read(text) => KeyDigest::of(text.as_bytes()),
        }
    }
}

/// Where a secret can be read. What is read is never shown, not even when it is
/// wrong. `what` is what it is called, such as `key`. Of a digest whoever asks complains.
pub(super) fn secret(value: &Value<'_>, base: &Path, what: &str) -> Fits<Secret> {
    read_secret(value, base, what, "write \"env:NAME\" or \"file:PATH\"")
}

/// A secret of which the digest is enough, and where it can be read.
pub(super) fn secret_or_digest(value: &Value<'_>, base: &Path, what: &str) -> Fits<Secret> {
    let ways = "write \"env:NAME\", \"file:PATH\" or \"sha256:…\"; \
                `tollgate hash-key` makes the last from a key";
    read_secret(value, base, what, ways)
}

fn read_secret(value: &Value<'_>, base: &Path, what: &str, ways: &str) -> Fits<Secret> {
    let text = value.string(&format!("a {what}"))?;
    let read = if let Some(hex) = text.strip_prefix("sha256:") {
        return digest(hex).map(KeyDigest::from_bytes).map(Secret::Digest).ok_or_else(|| {
            Misfit::new("expected 64 hexadecimal digits after `sha256:`").hint(ways)
        });
    } else if let Some(name) = text.strip_prefix("env:") {
        std::env::var(name)
            .map(Zeroizing::new)
            .map_err(|_| Misfit::new(format!("the environment has no variable `{name}`")))?
    } else if let Some(path) = text.strip_prefix("file:") {
        let path = base.join(path);
        value.comes_from(&path);
        std::fs::read_to_string(&path)
            .map(Zeroizing::new)
            .map_err(|error| Misfit::new(format!("{} cannot be read: {error}", path.display())))?
    } else {
        let message = format!("a {what} does not stand in the configuration itself");
        return Err(Misfit::new(message).hint(ways));
    };
    let text = read.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Misfit::new(format!("the {what} is empty")));
    }
    Ok(Secret::Read(Zeroizing::new(text.to_owned())))
}

/// An API key.
pub(super) fn api_key(value: &Value<'_>, base: &Path) -> Fits<KeyDigest> {
    secret_or_digest(value, base, "key").map(|key| key.digest())
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn a_time_ends() {
        let report = |time: &str| {
            let text = format!(
                "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
                 [[route]]\nname = \"a\"\nrespond = {{}}\nauth = \"a\"\n\
                 [[auth]]\nname = \"a\"\n[auth.forward]\nurl = \"http://auth.test/\"\n\
                 [auth.forward.cache]\nkey = [\"address\"]\n\
                 ttl = \"{time}\"\nnegative_ttl = \"{time}\"\n"
            );
            let parsed = parse(std::path::Path::new("config.toml"), &text);
            parsed.map_or_else(|error| error.to_string(), |_| String::new())
        };
        assert_eq!(report("100years"), "");
        for time in ["101years", "5000years", "584542046090years"] {
            let report = report(time);
            let complaint = "expected a duration of at most 100 years";
            assert_eq!(report.matches(complaint).count(), 2, "{time}: {report}");
        }
    }
}
