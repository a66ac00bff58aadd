//! Where a body ends: how it is sent, and how it is read (RFC 9112 §6, §7).

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, Version};
use http_body::Frame;

use super::Invalid;
use super::fields::{field, may_trail, take_trailers};

/// The longest line that announces a chunk, with its extensions.
const MAX_CHUNK_LINE: usize = 1024;

/// The most that the extensions of all chunks of a body may take, in bytes: they
/// are read for nothing.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// How a body is sent.
#[derive(Debug)]
pub(crate) enum Framing {
    /// There is none, and nothing has to be said about that.
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks; these trailer fields were announced (RFC 9110 §6.6.2).
    Chunked(Vec<HeaderName>),
    /// Until the connection is closed.
    UntilClose,
}

impl Framing {
    /// Says it in a head.
    pub(crate) fn announce(&self, out: &mut Vec<u8>) {
        match self {
            Self::None | Self::UntilClose => {}
            Self::Length(length) => {
                use std::io::Write as _;
                // Writing to a vector does not fail.
                let _ = write!(out, "content-length: {length}\r\n");
            }
            Self::Chunked(_) => field(out, "transfer-encoding", b"chunked"),
        }
    }
}

/// The trailer fields that a head announces.
pub(crate) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::TRAILER).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// Writes those fields of a trailer section that were announced.
pub(super) fn write_trailers(trailers: &HeaderMap, announced: &[HeaderName], out: &mut Vec<u8>) {
    for (name, value) in trailers {
        if may_trail(name) && announced.contains(name) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
}

/// How a body is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Incoming {
    /// This many bytes are left.
    Length(u64),
    /// In chunks.
    Chunked(Chunked),
    /// Whatever comes until the peer closes the connection.
    UntilClose,
}

/// The reader of a chunked body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Chunked {
    at: At,
    /// How many bytes of extensions there were.
    extensions: usize,
}

/// Where the reader of a chunked body is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    /// A line that announces a chunk is next.
    Size,
    /// So many bytes of a chunk are left.
    Data(u64),
    /// The line's end after a chunk is next.
    DataEnd,
    /// The trailer section is next; how far its end was looked for.
    Trailers(usize),
    /// The body is over.
    Over,
}

/// What was read of a body.
#[derive(Debug)]
pub(crate) enum Read {
    Frame(Frame<Bytes>),
    /// The body is over.
    End,
    /// There is nothing in the buffer that could be told from the next bytes.
    More,
}

impl Incoming {
    /// In chunks, of which none was read yet.
    pub(crate) const fn chunked() -> Self {
        Self::Chunked(Chunked { at: At::Size, extensions: 0 })
    }

    /// The framing that a head says, if it says any (RFC 9112 §6.3). A head that
    /// says two things is refused, and so is a length said twice.
    pub(crate) fn said(version: Version, headers: &HeaderMap) -> Result<Option<Self>, Invalid> {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
            if version != Version::HTTP_11 || !chunked || codings.next().is_some() {
                return Err(Invalid::Coding);
            }
            if headers.contains_key(header::CONTENT_LENGTH) {
                return Err(Invalid::TwoFramings);
            }
            return Ok(Some(Self::chunked()));
        }
        let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Ok(None),
            (Some(length), None) => {
                number(length.as_bytes()).map(|length| Some(Self::Length(length)))
            }
            (Some(_), Some(_)) => Err(Invalid::Length),
        }
    }

    /// Whether nothing is left to read.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked { at: At::Over, .. }))
    }

    /// Whether the body is whole if the connection ends now.
    pub(crate) fn may_end(&self) -> bool {
        self.is_over() || *self == Self::UntilClose
    }

    /// Takes what can be told from `buffer`.
    pub(crate) fn read(&mut self, buffer: &mut BytesMut) -> Result<Read, Invalid> {
        match self {
            Self::Length(0) => Ok(Read::End),
            Self::Length(left) => Ok(some_of(buffer, left)),
            Self::UntilClose => {
                let mut all = u64::MAX;
                Ok(some_of(buffer, &mut all))
            }
            Self::Chunked(chunked) => chunked.read(buffer),
        }
    }
}

/// A length is digits and nothing else.
fn number(digits: &[u8]) -> Result<u64, Invalid> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Invalid::Length);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Invalid::Length)?;
    digits.parse().map_err(|_| Invalid::Length)
}

/// Takes up to `left` bytes, without copying them.
fn some_of(buffer: &mut BytesMut, left: &mut u64) -> Read {
    if buffer.is_empty() {
        return Read::More;
    }
    let some = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= some as u64;
    Read::Frame(Frame::data(buffer.split_to(some).freeze()))
}

/// A line that announces a chunk.
struct ChunkLine {
    /// How long it is, with its end.
    line: usize,
    /// How long its extensions are.
    extensions: usize,
    /// The chunk's size.
    size: u64,
}

/// The line at the start of `buffer`; `None` while it is not whole.
fn chunk_line(buffer: &[u8]) -> Result<Option<ChunkLine>, Invalid> {
    let Some(first) = buffer.first() else { return Ok(None) };
    if !first.is_ascii_hexdigit() {
        return Err(Invalid::Chunk);
    }
    let searched = &buffer[..buffer.len().min(MAX_CHUNK_LINE)];
    let Some(end) = memchr::memchr(b'\n', searched) else {
        return if searched.len() < MAX_CHUNK_LINE { Ok(None) } else { Err(Invalid::Chunk) };
    };
    let text = searched[..end].strip_suffix(b"\r").ok_or(Invalid::Chunk)?;
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = text.split_at(digits);
    let is_text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    if !matches!(extensions.first(), None | Some(b';')) || !extensions.iter().all(is_text) {
        return Err(Invalid::Chunk);
    }
    let size = std::str::from_utf8(size).ok().filter(|digits| digits.len() <= 16);
    let size = size.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let size = size.ok_or(Invalid::Chunk)?;
    Ok(Some(ChunkLine { line: end + 1, extensions: extensions.len(), size }))
}

impl Chunked {
    fn read(&mut self, buffer: &mut BytesMut) -> Result<Read, Invalid> {
        loop {
            match &mut self.at {
                At::Size => {
                    let Some(chunk) = chunk_line(buffer)? else { return Ok(Read::More) };
                    self.extensions += chunk.extensions;
                    if self.extensions > MAX_EXTENSIONS {
                        return Err(Invalid::Chunk);
                    }
                    buffer.advance(chunk.line);
                    self.at = match chunk.size {
                        0 => At::Trailers(0),
                        size => At::Data(size),
                    };
                }
                At::Data(left) => {
                    let read = some_of(buffer, left);
                    if *left == 0 {
                        self.at = At::DataEnd;
                    }
                    return Ok(read);
                }
                At::DataEnd => match &buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.at = At::Size;
                    }
                    [] | [b'\r'] => return Ok(Read::More),
                    _ => return Err(Invalid::Chunk),
                },
                At::Trailers(searched) => {
                    let Some(trailers) = take_trailers(buffer, searched)? else {
                        return Ok(Read::More);
                    };
                    self.at = At::Over;
                    if !trailers.is_empty() {
                        return Ok(Read::Frame(Frame::trailers(trailers)));
                    }
                }
                At::Over => return Ok(Read::End),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    /// What a reader makes of `bytes` that come in pieces of `step` bytes: the
    /// data, the trailers, and what was left in the buffer.
    fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Invalid> {
        let mut body = Incoming::chunked();
        let (mut buffer, mut data, mut trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Read::Frame(frame) = body.read(&mut buffer)? {
                match frame.into_data() {
                    Ok(some) => data.extend_from_slice(&some),
                    Err(frame) => trailers = frame.into_trailers().unwrap(),
                }
            }
        }
        if body.is_over() { Ok((data, trailers, buffer.to_vec())) } else { Err(Invalid::Chunk) }
    }

    proptest! {
        #[test]
        fn a_chunked_body_reads_the_same_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            trailer in any::<bool>(),
            step in 1_usize..64,
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:x};ext=\"1\"\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n");
            if trailer {
                bytes.extend(b"X-Sum: 1\r\n");
            }
            bytes.extend(b"\r\nHTTP/1.1 ");
            let (data, trailers, left) = read(&bytes, step).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers.contains_key("x-sum"), trailer);
            prop_assert_eq!(left, b"HTTP/1.1 ");
        }

        #[test]
        fn no_bytes_bring_the_reader_down(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            step in 1_usize..16,
        ) {
            let _ = read(&bytes, step);
        }
    }

    #[test]
    fn a_malformed_chunk_is_refused() {
        for text in [
            "1 \r\na\r\n0\r\n\r\n",
            "1\t;x\r\na\r\n0\r\n\r\n",
            "1;x\0y\r\na\r\n0\r\n\r\n",
            "1;x\ry\r\na\r\n0\r\n\r\n",
            "00000000000000001\r\na\r\n0\r\n\r\n",
            "1\r\na\n0\r\n\r\n",
            "0\r\n\n",
            "0\r\nX: y\n\r\n",
            "x\r\n",
            "-1\r\na\r\n0\r\n\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            "1 1\r\na\r\n0\r\n\r\n",
            "1\na\n0\n\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1\r\na0\r\n\r\n",
            "11111111111111111\r\n",
            "fffffffffffffffff\r\n",
            "\r\n\r\n",
            ";\r\n\r\n",
            " \r\n\r\n",
            " 0\r\n\r\n",
            "1\r\na\r\n\r\n\r\n",
            "1\r\na\r\n;last\r\n\r\n",
            "1;x\ny\r\na\r\n0\r\n\r\n",
            "0;x\n\r\n\r\n",
        ] {
            assert!(read(text.as_bytes(), 100).is_err(), "{text:?}");
        }
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_CHUNK_LINE));
        assert!(read(long.as_bytes(), 7).is_err() && read(long.as_bytes(), 5_000).is_err());
        assert!(read(b"1\r\na\r\n", 100).is_err(), "it has no end");
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(MAX_CHUNK_LINE - 10));
        let few = format!("{}0\r\n\r\n", chunk.repeat(MAX_EXTENSIONS / MAX_CHUNK_LINE));
        assert!(read(few.as_bytes(), 100).is_ok());
        let many = format!("{}0\r\n\r\n", chunk.repeat(MAX_EXTENSIONS / MAX_CHUNK_LINE + 1));
        assert!(read(many.as_bytes(), 100).is_err(), "extensions without end");
    }

    #[test]
    fn a_length_is_read_to_its_end_and_no_further() {
        let mut body = Incoming::Length(3);
        let mut buffer = BytesMut::from("abcd");
        let Read::Frame(frame) = body.read(&mut buffer).unwrap() else { panic!() };
        assert_eq!(frame.into_data().unwrap(), "abc");
        assert!(body.is_over() && matches!(body.read(&mut buffer), Ok(Read::End)));
        assert_eq!(buffer, "d");
    }

    #[test]
    fn only_announced_trailers_that_may_be_are_written() {
        let trailers = HeaderMap::from_iter([
            (HeaderName::from_static("x-sum"), HeaderValue::from_static("1")),
            (HeaderName::from_static("x-other"), HeaderValue::from_static("2")),
            (header::HOST, HeaderValue::from_static("evil")),
        ]);
        let announced = [HeaderName::from_static("x-sum"), header::HOST];
        let mut out = Vec::new();
        write_trailers(&trailers, &announced, &mut out);
        assert_eq!(out, b"x-sum: 1\r\n");
    }
}
