//! Messages as they should be, as they should not, and with bytes knocked about.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::Union;

/// How often a part of a message is an odd one, beside [`USUAL`] times that it is
/// not.
pub const ODD: u32 = 1;
pub const LEGAL: u32 = 0;
const USUAL: u32 = 24;

/// Bytes for a connection, in the pieces in which they are sent.
#[derive(Clone)]
pub struct Case {
    pub bytes: Vec<u8>,
    cuts: Vec<usize>,
}

impl Case {
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().chain([self.bytes.len()]);
        starts.zip(ends).map(|(start, end)| &self.bytes[start..end])
    }

    /// What is cut at `at` is sent as one piece.
    pub fn join_at(&mut self, at: usize) {
        self.cuts.retain(|cut| *cut != at);
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\" cut at {:?}", self.bytes.escape_ascii(), self.cuts)
    }
}

type Bytes = BoxedStrategy<Vec<u8>>;

/// A connection's requests.
pub fn requests(odd: u32) -> impl Strategy<Value = Case> {
    case(prop::collection::vec(request(odd), 1..4).prop_map(|parts| parts.concat()).boxed(), odd)
}

/// What an origin may answer with; more than one response if it is odd.
pub fn responses(odd: u32) -> impl Strategy<Value = Case> {
    let end = pick(odd, &[""], &["\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "x"]);
    case(join([interim(odd), response(odd), end]), odd)
}

fn case(bytes: Bytes, odd: u32) -> impl Strategy<Value = Case> {
    let knocks = if odd == LEGAL { 0..1 } else { 0..3_usize };
    let knocks = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(knock(), knocks),
    ];
    let cuts = prop::collection::vec(any::<Index>(), 0..3);
    (bytes, knocks, cuts).prop_map(|(mut bytes, knocks, cuts)| {
        knocks.into_iter().for_each(|knock| knock.apply(&mut bytes));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        Case { bytes, cuts }
    })
}

/// What happens to bytes, whatever they mean.
#[derive(Clone, Debug)]
enum Knock {
    Insert(Index, Vec<u8>),
    Delete(Index, usize),
    Repeat(Index, usize),
    Replace(Index, u8),
    Truncate(Index),
}

impl Knock {
    fn apply(self, bytes: &mut Vec<u8>) {
        let end = bytes.len();
        let place = |at: Index| at.index(end + 1);
        let range = |at: Index, length: usize| place(at)..(place(at) + length).min(end);
        match self {
            Self::Insert(at, some) => drop(bytes.splice(place(at)..place(at), some)),
            Self::Delete(at, length) => drop(bytes.drain(range(at, length))),
            Self::Repeat(at, length) => {
                let range = range(at, length);
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, again);
            }
            Self::Replace(at, byte) => {
                if let Some(old) = bytes.get_mut(place(at)) {
                    *old = byte;
                }
            }
            Self::Truncate(at) => bytes.truncate(place(at)),
        }
    }
}

fn knock() -> impl Strategy<Value = Knock> {
    let some = ["\r", "\n", "\r\n", "\r\n\r\n", "\0", " ", "\t", ":", ",", ";", "0", "1", "\u{ff}"];
    let place = any::<Index>;
    prop_oneof![
        3 => (place(), select(some.map(latin1).to_vec())).prop_map(|(at, some)| Knock::Insert(at, some)),
        2 => (place(), 1..6_usize).prop_map(|(at, length)| Knock::Delete(at, length)),
        1 => (place(), 1..60_usize).prop_map(|(at, length)| Knock::Repeat(at, length)),
        2 => (place(), any::<u8>()).prop_map(|(at, byte)| Knock::Replace(at, byte)),
        1 => place().prop_map(Knock::Truncate),
    ]
}

fn request(odd: u32) -> Bytes {
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get", "M-SEARCH"];
    let odd_methods = ["", "TRACE", "CONNECT", "GE T", "G\u{e9}T", "PRI", "HTTP/1.1", "\r\nGET"];
    let targets = [
        "/",
        "/a",
        "/a/b?c=d&e",
        "//a",
        "/a?b=/../c",
        "/%41~-._!$&'()*+,;=:@",
        "http://a.test/x",
        "http://b.test:80/?q",
        "http://a.test?x",
        "HTTP://A.test",
        "/a%2fb",
    ];
    let odd_targets = [
        "",
        "*",
        "a",
        "/../x",
        "/a/..;/b",
        "/a\\b",
        "/%2e%2E/x",
        "/a#b",
        "/caf\u{c3}\u{a9}",
        "/a\u{7f}",
        "/a b",
        "http://u@a.test/",
        "ftp://a.test/",
        "http:///x",
        "a.test:443",
        "/%00",
        "/<\">",
        "http://a,b/",
        "/{}|^`",
    ];
    let odd_versions = [
        "HTTP/1.0",
        "HTTP/1.0",
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/1.1 ",
        "http/1.1",
        "",
        "HTTP/1.10",
    ];
    let host = pick(odd, &["Host: a.test", "hOST:a.test:80"], &["", "Host: b\r\nHost: a", "Host:"]);
    join([
        pick(odd, &methods, &odd_methods),
        space(odd),
        pick(odd, &targets, &odd_targets),
        space(odd),
        pick(odd, &["HTTP/1.1"], &odd_versions),
        end(odd),
        host,
        end(odd),
        fields(odd, &REQUEST_FIELDS),
        framed(odd, false),
    ])
}

fn interim(odd: u32) -> Bytes {
    let usual = ["", "", "", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"];
    let rare = [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 199 X\nContent-Length: 5\n\n",
        "HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    pick(odd, &usual, &rare)
}

fn response(odd: u32) -> Bytes {
    let statuses = ["200", "200", "201", "204", "304", "404", "500", "418", "599"];
    let odd_statuses = ["101", "100", "99", "600", "999", "1000", "2OO", "", "020", "-20"];
    join([
        pick(
            odd,
            &["HTTP/1.1"],
            &["HTTP/1.0", "HTTP/1.0", "HTTP/2", "HTTP/1.10", "ICY", "http/1.1"],
        ),
        space(odd),
        pick(odd, &statuses, &odd_statuses),
        space(odd),
        pick(odd, &["OK", "", "Quite Fine", "\u{e9}"], &["a\rb", "a\0b", "\t"]),
        end(odd),
        fields(odd, &RESPONSE_FIELDS),
        framed(odd, true),
    ])
}

const REQUEST_FIELDS: [&str; 17] = [
    "X-T-A: 1",
    "x-t-a:2",
    "X-T-B: \t padded \t ",
    "X-T-C: \u{e9}\u{ff}",
    "X-T-D:",
    "X-T-E: a, b;c=\"d\"",
    "Cookie: a=b",
    "Connection: keep-alive",
    "Connection: X-T-A",
    "Connection: TE, Upgrade",
    "Keep-Alive: timeout=5",
    "TE: trailers",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "Expect: 100-continue",
    "X-Forwarded-For: 6.6.6.6",
    "Trailer: X-T-T",
];

const RESPONSE_FIELDS: [&str; 11] = [
    "X-T-A: 1",
    "x-t-a:2",
    "X-T-B: \t padded \t ",
    "X-T-C: \u{e9}\u{ff}",
    "X-T-D:",
    "Set-Cookie: a=b",
    "Connection: keep-alive",
    "Connection: X-T-A",
    "Keep-Alive: timeout=5",
    "Trailer: X-T-T",
    "Upgrade: h2c",
];

const ODD_FIELDS: [&str; 45] = [
    "Content-Length: 5",
    "Content-Length: 0",
    "content-length: 3",
    "Content-Length: +1",
    "Content-Length: 1, 1",
    "Content-Length:",
    "Content-Length: 1 1",
    "Content-Length: 0x1",
    "Content-Length: 18446744073709551616",
    "Content-Length: 18446744073709551615",
    "Content-Length : 5",
    "Content_Length: 5",
    "Content-Length: 5\u{c}",
    "Content-Length: 00000000000000000000003",
    "Transfer-Encoding: chunked",
    "transfer-encoding:Chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\u{b}chunked",
    "Transfer-Encoding:",
    " Transfer-Encoding: chunked",
    "Transfer_Encoding: chunked",
    "Host: b.test",
    "Host: a@b",
    "Connection: close",
    "Connection: Content-Length, Transfer-Encoding, Host",
    "X-T-A : 1",
    "X T: 1",
    "no colon",
    ": empty",
    " folded",
    "\tfolded",
    "X-T-F: a\rb",
    "X-T-F: a\nb",
    "X-T-F: a\0b",
    "X-T-F: a\u{7f}b",
    "X-T-\u{e9}: 1",
    "Expect: x",
    "",
    "\r",
];

fn fields(odd: u32, usual: &'static [&'static str]) -> Bytes {
    let line = join([pick(odd, usual, &ODD_FIELDS), end(odd)]);
    prop::collection::vec(line, 0..5).prop_map(|lines| lines.concat()).boxed()
}

/// The fields that frame a message, the end of its head, and its body. One that
/// may have none can end with the connection.
fn framed(odd: u32, until_close: bool) -> Bytes {
    let none = join([end(odd), if until_close { data() } else { text(&[""]) }]);
    let length = (data(), pick(odd, &["", "", "", "0"], &["1", "-", " "]), end(odd), end(odd));
    let length = length.prop_map(|(data, before, line, end)| {
        let before = String::from_utf8_lossy(&before).into_owned();
        let field = format!("Content-Length: {before}{}", data.len());
        [field.as_bytes(), &line, &end, &data].concat()
    });
    let chunked = join([
        pick(odd, &["Transfer-Encoding: chunked", "transfer-encoding:CHUNKED"], &ODD_FIELDS),
        end(odd),
        end(odd),
        prop::collection::vec(chunk(odd), 0..4).prop_map(|chunks| chunks.concat()).boxed(),
        pick(odd, &["0", "0", "000", "0;last"], &["", "0 ", "-0", "0x0", "1", "00000000000000000"]),
        end(odd),
        pick(odd, &["", "", "X-T-T: 1\r\n", "Content-Length: 7\r\nHost: evil\r\n"], &TRAILERS),
        end(odd),
    ]);
    prop_oneof![2 => none, 2 => length, 2 => chunked].boxed()
}

const TRAILERS: [&str; 6] =
    ["X-T-T: 1\n", "X-T-T : 1\r\n", "no colon\r\n", " folded\r\n", "X-T-T: a\0\r\n", "\r"];

fn chunk(odd: u32) -> Bytes {
    let usual = ["", "", ";a=b", ";a=\"q;\"", ";\t\u{e9}"];
    let rare = [" ", "\t;a", ";a\0b", ";a\rb", ";a\nb", ",a", "x", ";a=\"\r\n\""];
    let parts = (
        data().prop_filter("a chunk has data", |data| !data.is_empty()),
        pick(odd, &["", "0", "00"], &["+", "-", "0x", " ", "\t", "1", "fffffffffffffff"]),
        pick(odd, &usual, &rare),
        any::<bool>(),
        end(odd),
        end(odd),
    );
    parts
        .prop_map(|(data, before, extension, upper, line, end)| {
            let size = data.len();
            let size = if upper { format!("{size:X}") } else { format!("{size:x}") };
            [&before, size.as_bytes(), &extension, &line, &data, &end].concat()
        })
        .boxed()
}

fn data() -> Bytes {
    let texts = [
        "",
        "a",
        "hello",
        "0\r\n\r\n",
        "\r\n\r\n",
        "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ];
    prop_oneof![
        20 => text(&texts),
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (4_000..40_000_usize).prop_map(|length| vec![b'x'; length]),
    ]
    .boxed()
}

fn end(odd: u32) -> Bytes {
    pick(odd.min(1), &["\r\n", "\r\n", "\r\n", "\r\n"], &["\n", "\r", "\r\r\n", " \r\n", ""])
}

fn space(odd: u32) -> Bytes {
    pick(odd, &[" "], &["  ", "\t", "", "\u{b}"])
}

/// One of the usual, or now and then one of the odd.
fn pick(odd: u32, usual: &[&'static str], rare: &[&'static str]) -> Bytes {
    if odd == LEGAL {
        return text(usual);
    }
    Union::new_weighted(vec![(USUAL, text(usual)), (odd, text(rare))]).boxed()
}

fn text(texts: &[&'static str]) -> Bytes {
    select(texts.iter().copied().map(latin1).collect::<Vec<_>>()).boxed()
}

fn join<const N: usize>(parts: [Bytes; N]) -> Bytes {
    Vec::from(parts).prop_map(|parts: Vec<Vec<u8>>| parts.concat()).boxed()
}

/// A byte for each character.
fn latin1(text: &'static str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}
