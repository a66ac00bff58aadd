//! HTTP/1.1 as RFC 9112 has it and no other way: lines that end in CRLF, single
//! spaces, one framing. Written apart from the proxy, so as not to share its
//! mistakes, and with nothing but the standard library, so that the fuzz targets
//! judge by it as well.

use std::fmt;

/// A message that has one reading.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Message {
    /// The three parts of the first line.
    pub first: [Vec<u8>; 3],
    /// In their order, the names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// What followed a chunked body.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Why a request is not to be served, though it is clear where it ends.
    pub wrong: Option<&'static str>,
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It is not whole.
    Cut,
    Invalid(&'static str),
}

/// What stands on a connection, up to where it is closed or cannot be read.
#[derive(Debug)]
pub struct Requests {
    pub whole: Vec<Message>,
    /// What is left that is no message; `None` if nothing is.
    pub fault: Option<Fault>,
}

impl Message {
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let fields = self.fields.iter().filter(|(field, _)| field == name);
        fields.map(|(_, value)| &value[..]).collect()
    }

    /// Whether any line of a list field has this token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        let lines = self.values(name);
        let mut tokens = lines.iter().flat_map(|line| line.split(|byte| *byte == b','));
        tokens.any(|one| one.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    pub fn method(&self) -> &[u8] {
        &self.first[0]
    }

    /// Of a response.
    pub fn status(&self) -> u16 {
        String::from_utf8_lossy(&self.first[1]).parse().unwrap_or_default()
    }

    /// Whether no request follows this one (RFC 9112 §9.3).
    pub fn closes(&self) -> bool {
        let is_old = self.first.contains(&b"HTTP/1.0".to_vec());
        self.has_token("connection", "close")
            || (is_old && !self.has_token("connection", "keep-alive"))
    }

    /// What the origin is asked for, and in whose name (RFC 9112 §3.2).
    pub fn asks_for(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let host = self.values("host").first().map(|host| host.to_vec());
        let target = &self.first[1];
        let Some(rest) = after_scheme(target) else { return (target.clone(), host) };
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = match path.first() {
            Some(b'/') => path.to_vec(),
            _ => [b"/", path].concat(),
        };
        (path, Some(authority.to_vec()))
    }
}

/// What stands after `http://` or `https://`.
fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    let starts = |scheme: &[u8]| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| &target[scheme.len()..])
    };
    starts(b"http://").or_else(|| starts(b"https://"))
}

/// All requests of a connection. An empty line before a request is let pass
/// (RFC 9112 §2.2); after a request that closes the connection nothing is read.
pub fn requests(mut bytes: &[u8]) -> Requests {
    let mut whole = Vec::new();
    loop {
        bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        if bytes.is_empty() {
            return Requests { whole, fault: None };
        }
        match request(bytes) {
            Ok((message, rest)) => {
                bytes = if message.closes() { b"" } else { rest };
                whole.push(message);
            }
            Err(fault) => return Requests { whole, fault: Some(fault) },
        }
    }
}

/// The request at the start of `bytes`, and what follows it.
pub fn request(bytes: &[u8]) -> Result<(Message, &[u8]), Fault> {
    let (mut message, rest) = request_head(bytes)?;
    message.wrong = what_is_wrong(&message);
    let framing = framing(&message)?.unwrap_or(Framing::Length(0));
    let rest = body(&mut message, framing, rest)?;
    Ok((message, rest))
}

/// RFC 9112 §3.2
fn what_is_wrong(message: &Message) -> Option<&'static str> {
    let [method, target, version] = &message.first;
    let is_form = match &method[..] {
        b"CONNECT" => true,
        b"OPTIONS" if target == b"*" => true,
        _ => target.starts_with(b"/") || is_absolute(target),
    };
    let is_text = target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    let hosts = message.values("host");
    match () {
        () if !is_form || !is_text => Some("the target"),
        () if hosts.len() > 1 || hosts.iter().any(|host| !is_host(host)) => Some("Host"),
        () if hosts.is_empty() && version == b"HTTP/1.1" => Some("there is no Host"),
        () => None,
    }
}

/// The head of a request, whoever it is for, and what follows it.
pub fn request_head(bytes: &[u8]) -> Result<(Message, &[u8]), Fault> {
    let (line, rest) = line(bytes)?;
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(Fault::Invalid("the request line has not three parts"));
    };
    if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") {
        return Err(Fault::Invalid("the version"));
    }
    if method.is_empty() || !method.iter().all(is_token) {
        return Err(Fault::Invalid("the method"));
    }
    if target.is_empty() || target.iter().any(u8::is_ascii_control) {
        return Err(Fault::Invalid("the target"));
    }
    let (fields, rest) = section(rest)?;
    let first = [method, target, version].map(<[u8]>::to_vec);
    Ok((Message { first, fields, ..Message::default() }, rest))
}

/// The final response to a request with this method, and what follows it; interim
/// ones are passed over. `ended` tells whether the connection ends after `bytes`.
/// What a recipient may let pass is let pass: lines that end in LF alone (RFC 9112
/// §2.2), and a length that is said twice (RFC 9110 §8.6).
pub fn response<'b>(
    mut bytes: &'b [u8],
    method: &[u8],
    ended: bool,
) -> Result<(Message, &'b [u8]), Fault> {
    loop {
        let (message, rest) = one_response(bytes, method, ended)?;
        match message.status() {
            101 => return Err(Fault::Invalid("nobody asked for a switch")),
            100..200 => bytes = rest,
            _ => return Ok((message, rest)),
        }
    }
}

fn one_response<'b>(
    bytes: &'b [u8],
    method: &[u8],
    ended: bool,
) -> Result<(Message, &'b [u8]), Fault> {
    let (mut message, rest) = response_head(bytes)?;
    let said = framing(&message)?;
    let none = method == b"HEAD" || matches!(message.status(), 100..200 | 204 | 304);
    match said {
        _ if none => Ok((message, rest)),
        Some(framing) => {
            let rest = body(&mut message, framing, rest)?;
            Ok((message, rest))
        }
        None if ended => {
            message.body = rest.to_vec();
            Ok((message, b""))
        }
        None => Err(Fault::Cut),
    }
}

/// The head of a response, and what follows it.
pub fn response_head(bytes: &[u8]) -> Result<(Message, &[u8]), Fault> {
    let (head, rest) = with_crlf(bytes)?;
    let (line, fields) = line(&head)?;
    let text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    let mut parts = line.splitn(3, |byte| *byte == b' ').map(<[u8]>::to_vec);
    let mut part = || parts.next().unwrap_or_default();
    let first = [part(), part(), part()];
    let digits = first[1].iter().all(u8::is_ascii_digit) && first[1].len() == 3;
    if !matches!(&first[0][..], b"HTTP/1.1" | b"HTTP/1.0") || !digits || first[1][0] == b'0' {
        return Err(Fault::Invalid("the status line"));
    }
    if !first[2].iter().all(text) {
        return Err(Fault::Invalid("the reason"));
    }
    let (mut fields, _) = section(fields)?;
    let length = fields.iter().find(|(name, _)| name == "content-length").cloned();
    if let Some(length) = length {
        let mut first = true;
        fields.retain(|field| *field != length || std::mem::take(&mut first));
    }
    Ok((Message { first, fields, ..Message::default() }, rest))
}

/// A head with every line's end made CRLF, and what follows it.
fn with_crlf(bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), Fault> {
    let (mut head, mut rest) = (Vec::new(), bytes);
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(Fault::Cut)?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
        if line.is_empty() {
            return Ok((head, rest));
        }
    }
}

/// How a body is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// The framing that a head says, if it says any (RFC 9112 §6.3).
pub fn framing(message: &Message) -> Result<Option<Framing>, Fault> {
    let is_new = message.first.contains(&b"HTTP/1.1".to_vec());
    let codings = message.values("transfer-encoding");
    let lengths = message.values("content-length");
    match (&codings[..], &lengths[..]) {
        ([], []) => Ok(None),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && is_new => {
            Ok(Some(Framing::Chunked))
        }
        ([], [length]) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length = String::from_utf8_lossy(length).parse();
            length.map(|length| Some(Framing::Length(length))).map_err(|_| Fault::Invalid("length"))
        }
        _ => Err(Fault::Invalid("the framing")),
    }
}

/// Reads the body into `message`; gives what follows it.
fn body<'b>(
    message: &mut Message,
    framing: Framing,
    mut bytes: &'b [u8],
) -> Result<&'b [u8], Fault> {
    if let Framing::Length(length) = framing {
        let length = usize::try_from(length).map_err(|_| Fault::Cut)?;
        let (body, rest) = bytes.split_at_checked(length).ok_or(Fault::Cut)?;
        message.body = body.to_vec();
        return Ok(rest);
    }
    loop {
        let (size, rest) = line(bytes)?;
        let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = size.split_at(digits);
        let is_text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
        // No size needs more than sixteen digits, and some readers forget the first.
        let too_long = size.len() > 16;
        if too_long
            || !matches!(extension.first(), None | Some(b';'))
            || !extension.iter().all(is_text)
        {
            return Err(Fault::Invalid("the line of a chunk"));
        }
        let size = u64::from_str_radix(&String::from_utf8_lossy(size), 16);
        let size = size.map_err(|_| Fault::Invalid("the size of a chunk"))?;
        if size == 0 {
            let (trailers, rest) = section(rest)?;
            message.trailers = trailers;
            return Ok(rest);
        }
        let size = usize::try_from(size).map_err(|_| Fault::Cut)?;
        let (chunk, rest) = rest.split_at_checked(size).ok_or(Fault::Cut)?;
        message.body.extend_from_slice(chunk);
        bytes = match rest {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Err(Fault::Cut),
            _ => return Err(Fault::Invalid("the end of a chunk")),
        };
    }
}

type Section = Vec<(String, Vec<u8>)>;

/// Field lines up to and with an empty line.
fn section(mut bytes: &[u8]) -> Result<(Section, &[u8]), Fault> {
    let mut fields = Vec::new();
    loop {
        let (line, rest) = line(bytes)?;
        bytes = rest;
        if line.is_empty() {
            return Ok((fields, bytes));
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.ok_or(Fault::Invalid("a field without colon"))?);
        if name.is_empty() || !name.iter().all(is_token) {
            return Err(Fault::Invalid("the name of a field"));
        }
        let value = trimmed(&value[1..]);
        if !value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()) {
            return Err(Fault::Invalid("the value of a field"));
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
}

/// A line without its CRLF, and what follows.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Fault::Cut)?;
    match bytes[..end].strip_suffix(b"\r") {
        Some(line) if !line.contains(&b'\r') => Ok((line, &bytes[end + 1..])),
        _ => Err(Fault::Invalid("the end of a line")),
    }
}

/// Without the white space around it, which is spaces and tabs and nothing else.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is_absolute(target: &[u8]) -> bool {
    after_scheme(target).is_some_and(|rest| {
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        !rest[..end].is_empty() && is_host(&rest[..end])
    })
}

fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(byte))
}

/// RFC 9110 §5.6.2
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.first.iter().map(|part| part.escape_ascii().to_string());
        write!(f, "«{}", parts.collect::<Vec<_>>().join(" "))?;
        for (name, value) in &self.fields {
            write!(f, " | {name}: {}", value.escape_ascii())?;
        }
        write!(f, " || {}»", self.body.escape_ascii())
    }
}

#[test]
fn a_strict_reader_takes_one_reading_or_none() {
    let ask = "GET /x HTTP/1.1\r\nHost: a\r\n";
    let one = |text: &str| requests(text.as_bytes());
    let pipeline =
        one(&format!("{ask}\r\n\r\n{ask}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"));
    assert_eq!((pipeline.whole.len(), pipeline.fault), (2, None));
    assert_eq!(pipeline.whole[1].body, b"a");
    assert_eq!(one(&format!("{ask}Connection: close\r\n\r\nrubbish")).whole.len(), 1);
    assert_eq!(one(&format!("{ask}Content-Length: 3\r\n\r\nab")).fault, Some(Fault::Cut));
    for wrong in [
        "X : y\r\n\r\n",
        "X: a\rb\r\n\r\n",
        "X: y\n\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n\r\nab",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let read = one(&format!("{ask}{wrong}"));
        assert!(matches!(read.fault, Some(Fault::Invalid(_))), "{wrong:?}: {read:?}");
    }
    let twice = one(&format!("{ask}Host: a\r\n\r\n"));
    assert!(twice.whole[0].wrong.is_some() && twice.fault.is_none());
    let absolute = one("GET http://b.test?x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(absolute.whole[0].asks_for(), (b"/?x".to_vec(), Some(b"b.test".to_vec())));
    let answer = b"HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 2\n\nokx";
    let (answer, rest) = response(answer, b"GET", false).unwrap();
    assert_eq!((answer.status(), &answer.body[..], rest), (200, &b"ok"[..], &b"x"[..]));
}
