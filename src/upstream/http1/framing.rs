//! Where a body ends: how a request's is sent, and how a response's is read
//! (RFC 9112 §6, §7).

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame};

use super::head::{Invalid, field, may_trail, take_trailers};
use crate::body::Body;

/// The longest line that announces a chunk, with its extensions.
const MAX_CHUNK_LINE: usize = 1024;

/// How a request's body is sent.
#[derive(Debug)]
pub(super) enum Framing {
    /// There is none, and nothing has to be said about that.
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks; these trailer fields were announced (RFC 9110 §6.6.2).
    Chunked(Vec<HeaderName>),
}

impl Framing {
    pub(super) fn of(request: &Request<Body>) -> Self {
        let body = request.body();
        if body.is_end_stream() {
            // RFC 9110 §8.6: methods that usually have a body say that it is empty.
            let says = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
                || request.headers().contains_key(header::CONTENT_LENGTH);
            return if says { Self::Length(0) } else { Self::None };
        }
        match body.size_hint().exact() {
            Some(length) => Self::Length(length),
            None => Self::Chunked(announced(request.headers())),
        }
    }

    /// Says it in a head.
    pub(super) fn announce(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Length(length) => {
                use std::io::Write as _;
                // Writing to a vector does not fail.
                let _ = write!(out, "content-length: {length}\r\n");
            }
            Self::Chunked(_) => field(out, "transfer-encoding", b"chunked"),
        }
    }
}

fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
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

/// How a response's body is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Incoming {
    /// This many bytes are left.
    Length(u64),
    /// In chunks.
    Chunked(Chunked),
    /// Whatever comes until the origin closes the connection.
    UntilClose,
}

/// Where the reader of a chunked body is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Chunked {
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
pub(super) enum Read {
    Frame(Frame<Bytes>),
    /// The body is over.
    End,
    /// There is nothing in the buffer that could be told from the next bytes.
    More,
}

impl Incoming {
    /// RFC 9112 §6.3. `framed` tells whether any field says how the body is framed.
    pub(super) fn of(
        response: &mut Response<()>,
        method: &Method,
        framed: bool,
    ) -> Result<Self, Invalid> {
        let said = if framed { Self::said(response)? } else { Self::UntilClose };
        let status = response.status();
        let has_none = *method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(if has_none { Self::Length(0) } else { said })
    }

    /// The framing that a head says. A length that is said twice is made one.
    fn said(response: &mut Response<()>) -> Result<Self, Invalid> {
        let version = response.version();
        let headers = response.headers_mut();
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
            if version == Version::HTTP_10 || !chunked || codings.next().is_some() {
                return Err(Invalid::Coding);
            }
            if headers.contains_key(header::CONTENT_LENGTH) {
                return Err(Invalid::TwoFramings);
            }
            return Ok(Self::Chunked(Chunked::Size));
        }
        Ok(length(headers)?.map_or(Self::UntilClose, Self::Length))
    }

    /// Whether nothing is left to read.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Over))
    }

    /// Whether the body is whole if the connection ends now.
    pub(super) fn may_end(&self) -> bool {
        self.is_over() || *self == Self::UntilClose
    }

    /// Takes what can be told from `buffer`.
    pub(super) fn read(&mut self, buffer: &mut BytesMut) -> Result<Read, Invalid> {
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

/// The one length that a head announces.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Invalid> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let more = lines.next().is_some();
    if lines.chain(headers.get_all(header::CONTENT_LENGTH)).any(|line| line != first) {
        return Err(Invalid::Length);
    }
    let digits = first.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Invalid::Length);
    }
    let length = first.to_str().ok().and_then(|digits| digits.parse().ok());
    if more {
        let first = first.clone();
        headers.insert(header::CONTENT_LENGTH, first);
    }
    length.ok_or(Invalid::Length).map(Some)
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

/// The length of the line that announces a chunk, and the chunk's size; `None`
/// while the line is not whole.
fn announced_chunk(buffer: &[u8]) -> Result<Option<(usize, u64)>, Invalid> {
    // httparse takes a line without a digit for a size of zero, which would end
    // the body, and lets a bare line feed stand in an extension.
    if buffer.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
        return Err(Invalid::Chunk);
    }
    match httparse::parse_chunk_size(buffer) {
        Ok(httparse::Status::Complete((line, size)))
            if line <= MAX_CHUNK_LINE && !buffer[..line - 1].contains(&b'\n') =>
        {
            Ok(Some((line, size)))
        }
        Ok(httparse::Status::Partial) if buffer.len() <= MAX_CHUNK_LINE => Ok(None),
        _ => Err(Invalid::Chunk),
    }
}

impl Chunked {
    fn read(&mut self, buffer: &mut BytesMut) -> Result<Read, Invalid> {
        loop {
            match self {
                Self::Size => {
                    let Some((line, size)) = announced_chunk(buffer)? else {
                        return Ok(Read::More);
                    };
                    buffer.advance(line);
                    *self = if size == 0 { Self::Trailers(0) } else { Self::Data(size) };
                }
                Self::Data(left) => {
                    let read = some_of(buffer, left);
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(read);
                }
                Self::DataEnd => match &buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(Read::More),
                    _ => return Err(Invalid::Chunk),
                },
                Self::Trailers(searched) => {
                    let Some(trailers) = take_trailers(buffer, searched)? else {
                        return Ok(Read::More);
                    };
                    *self = Self::Over;
                    if !trailers.is_empty() {
                        return Ok(Read::Frame(Frame::trailers(trailers)));
                    }
                }
                Self::Over => return Ok(Read::End),
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
        let mut body = Incoming::Chunked(Chunked::Size);
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
