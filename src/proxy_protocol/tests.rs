use super::*;
use proptest::prelude::*;

const MAX: usize = DEFAULT_MAX_LENGTH;

fn client(source: &str, destination: &str) -> Announced {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Announced::Client(Addresses { source, destination })
}

/// What is said by a header with something behind it.
fn said(header: &[u8]) -> Result<Announced, Invalid> {
    let bytes = [header, b"GET / HTTP/1.1\r\n"].concat();
    let found = parse(&bytes, MAX)?.expect("it is whole");
    assert_eq!(found.length, header.len());
    Ok(found.announced)
}

fn v2(command: u8, protocol: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, protocol][..], &length, block].concat()
}

/// 192.0.2.1:258 to 192.0.2.2:443.
const TCP4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 1, 187];

#[test]
fn lines_of_version_1_are_read() {
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\n";
    assert_eq!(said(line), Ok(client("192.0.2.1:258", "192.0.2.2:443")));
    let line = b"PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n";
    assert_eq!(said(line), Ok(client("[2001:db8::1]:0", "[::1]:65535")));
    let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY TCP6 {all} {all} 65535 65535\r\n");
    let address = format!("[{all}]:65535");
    assert_eq!(said(line.as_bytes()), Ok(client(&address, &address)));
    assert_eq!(said(b"PROXY UNKNOWN\r\n"), Ok(Announced::Unknown));
    let line = format!("PROXY UNKNOWN {all} {all} 65535 65535\r\n");
    assert_eq!(line.len(), 107);
    assert_eq!(said(line.as_bytes()), Ok(Announced::Unknown));
    assert_eq!(said(b"PROXY UNKNOWN \xff\n\rx\r\n"), Ok(Announced::Unknown));
}

#[test]
fn lines_that_are_nearly_right_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 +80 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 080 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 80 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 80 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 80 443 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 80 443 x\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 80 443\r\n",
        "PROXY TCP4 192.0.2.1\t192.0.2.2 80 443\r\n",
        "PROXY TCP4 192.0.02.1 192.0.2.2 80 443\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.2 80 443\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 80 443\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 80 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 80 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 80 443\n\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 80 443\r\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 80 443\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 80 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
        "PROXY  UNKNOWN\r\n",
    ] {
        let found = parse(line.as_bytes(), MAX);
        assert!(matches!(found, Err(Invalid::Malformed(_))), "{line:?}: {found:?}");
    }
    for bytes in ["proxy UNKNOWN\r\n", "PROXY\tUNKNOWN\r\n", "POST / HTTP/1.1\r\n", "PR\r\n", "\n"]
    {
        assert_eq!(parse(bytes.as_bytes(), MAX), Err(Invalid::Missing), "{bytes:?}");
    }
    let line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(line.len(), 108);
    assert_eq!(parse(line.as_bytes(), MAX), Err(Invalid::Oversize));
    assert_eq!(parse(&line.as_bytes()[..106], MAX), Ok(None));
    assert_eq!(parse(&line.as_bytes()[..107], MAX), Err(Invalid::Oversize));
}

#[test]
fn headers_of_version_2_are_read() {
    let four = client("192.0.2.1:258", "192.0.2.2:443");
    assert_eq!(said(&v2(0x21, 0x11, &TCP4)), Ok(four));
    let six = [&[0x20; 16][..], &[0xfd; 16], &[0, 80, 0, 81]].concat();
    let addresses = said(&v2(0x21, 0x21, &six)).unwrap();
    let expected = client(
        "[2020:2020:2020:2020:2020:2020:2020:2020]:80",
        "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:81",
    );
    assert_eq!(addresses, expected);
    // ALPN, an authority, a no-op, one of nobody's.
    let tlvs = [&TCP4[..], b"\x01\0\x02h2\x02\0\x06a.test\x04\0\0\xee\0\x01x"].concat();
    assert_eq!(said(&v2(0x21, 0x11, &tlvs)), Ok(four));
}

#[test]
fn what_is_not_understood_is_as_good_as_unspecified() {
    for (protocol, block) in [
        (0x00, &b""[..]),
        (0x00, &TCP4[..]),
        (0x10, &b"?"[..]),
        (0x01, &b""[..]),
        (0x12, &TCP4[..]),
        (0x22, &[0; 36][..]),
        (0x31, &[0; 216][..]),
        (0x32, &[0; 216][..]),
    ] {
        let header = v2(0x21, protocol, block);
        assert_eq!(said(&header), Ok(Announced::Unknown), "{protocol:#x}");
    }
    // Of the sender's own connection nothing is looked at.
    for protocol in [0x00, 0x11, 0x21, 0x31, 0x4f, 0xff] {
        for block in [&b""[..], b"??"] {
            assert_eq!(said(&v2(0x20, protocol, block)), Ok(Announced::Local));
        }
    }
}

#[test]
fn headers_of_version_2_that_are_nearly_right_are_refused() {
    for (command, protocol, block) in [
        (0x11, 0x11, &TCP4[..]),
        (0x31, 0x11, &TCP4[..]),
        (0x22, 0x11, &TCP4[..]),
        (0x21, 0x41, &TCP4[..]),
        (0x21, 0x13, &TCP4[..]),
        (0x21, 0x04, &TCP4[..]),
        (0x21, 0x11, &TCP4[..11]),
        (0x21, 0x21, &TCP4[..]),
        (0x21, 0x31, &TCP4[..]),
        (0x21, 0x11, &[&TCP4[..], b"\x04"].concat()[..]),
        (0x21, 0x11, &[&TCP4[..], b"\x04\0\x01"].concat()[..]),
        (0x21, 0x11, &[&TCP4[..], b"\x04\0\0\x02\xff\xffx"].concat()[..]),
        (0x21, 0x11, &[&TCP4[..], b"\x03\0\x04abcd"].concat()[..]),
        (0x21, 0x11, &[&TCP4[..], b"\x03\0\x03abc"].concat()[..]),
    ] {
        let found = parse(&v2(command, protocol, block), MAX);
        assert!(matches!(found, Err(Invalid::Malformed(_))), "{command} {protocol}: {found:?}");
    }
    assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\r", MAX), Err(Invalid::Missing));
    assert_eq!(parse(b"\r\nGET", MAX), Err(Invalid::Missing));
    // That it is too long is known before it has come.
    let long = v2(0x21, 0x00, &[0; 521]);
    assert_eq!(parse(&long[..15], MAX), Ok(None));
    assert_eq!(parse(&long[..16], MAX), Err(Invalid::Oversize));
    assert!(parse(&long, MAX + 1).unwrap().is_some());
}

#[test]
fn a_checksum_that_is_there_is_right() {
    let mut block = [&TCP4[..], b"\x04\0\x01x\x03\0\x04\0\0\0\0\x02\0\x01a"].concat();
    let at = TCP4.len() + 4 + 3;
    let plain = v2(0x21, 0x11, &block);
    // The remainder, worked out here by division.
    let mut remainder = 0xffff_ffff_u32;
    for bit in plain.iter().flat_map(|byte| (0..8).map(move |n| (byte >> n) & 1)) {
        let top = (remainder & 1) ^ u32::from(bit);
        remainder = (remainder >> 1) ^ (top * 0x82f6_3b78);
    }
    block[at..at + 4].copy_from_slice(&(!remainder).to_be_bytes());
    assert_eq!(said(&v2(0x21, 0x11, &block)), Ok(client("192.0.2.1:258", "192.0.2.2:443")));
    for byte in [0, 11, 15, at, block.len() - 1] {
        let mut wrong = block.clone();
        wrong[byte] ^= 1;
        let found = parse(&v2(0x21, 0x11, &wrong), MAX);
        assert_eq!(found, Err(Invalid::Malformed("the checksum is wrong")), "{byte}");
    }
}

#[test]
fn two_families_are_brought_into_one() {
    let mixed = client("192.0.2.1:1", "[2001:db8::1]:2");
    let expected = client("[::ffff:192.0.2.1]:1", "[2001:db8::1]:2");
    assert_eq!(said(&write(Version::V2, mixed)), Ok(expected));
    let line = write(Version::V1, mixed);
    assert_eq!(line, b"PROXY TCP6 ::ffff:c000:201 2001:db8::1 1 2\r\n");
    assert_eq!(said(&line), Ok(expected));
    let mapped = client("[::ffff:192.0.2.1]:1", "192.0.2.2:2");
    assert_eq!(write(Version::V1, mapped), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert_eq!(write(Version::V1, Announced::Local), b"PROXY UNKNOWN\r\n");
}

/// Bytes that are often nearly a header.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let line = "(PROXY |PROX|P)?(TCP4 |TCP6 |UNKNOWN ?)?([0-9a-f:. ]{0,40}){0,2}[ -~\r\n]{0,9}";
    let text = proptest::string::string_regex(line).unwrap().prop_map(String::into_bytes);
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    let binary = (0x1f_u8..0x23, any::<u8>(), bytes.clone(), any::<Option<u16>>()).prop_map(
        |(command, protocol, block, length)| {
            let mut header = v2(command, protocol & 0x37, &block);
            if let Some(length) = length {
                header[14..16].copy_from_slice(&(length % 600).to_be_bytes());
            }
            header
        },
    );
    prop_oneof![text, bytes, binary]
}

/// Addresses as a header may have them.
fn announced() -> impl Strategy<Value = Announced> {
    let v4 = || any::<std::net::SocketAddrV4>().prop_map(SocketAddr::V4);
    let v6 =
        || any::<([u8; 16], u16)>().prop_map(|(address, port)| SocketAddr::from((address, port)));
    let either = || prop_oneof![v4(), v6()];
    let clients = (either(), either()).prop_map(|(source, destination)| {
        Announced::Client(Addresses { source, destination }.aligned())
    });
    prop_oneof![Just(Announced::Local), Just(Announced::Unknown), clients]
}

proptest! {
    #[test]
    fn no_bytes_panic_and_every_split_finds_the_same(bytes in nearly()) {
        let whole = parse(&bytes, MAX);
        let mut decided = false;
        for end in 0..=bytes.len() {
            let found = parse(&bytes[..end], MAX);
            if let Ok(Some(header)) = found {
                prop_assert!(header.length <= end && header.length <= MAX);
            }
            decided |= found != Ok(None);
            prop_assert_eq!(found, if decided { whole } else { Ok(None) });
        }
    }

    #[test]
    fn what_is_written_is_read(announced in announced(), behind in any::<Vec<u8>>()) {
        for version in [Version::V1, Version::V2] {
            let header = write(version, announced);
            let expected = match (version, announced) {
                (Version::V1, Announced::Local) => Announced::Unknown,
                (_, announced) => announced,
            };
            for end in 0..header.len() {
                prop_assert_eq!(parse(&header[..end], MAX), Ok(None));
            }
            let bytes = [&header[..], &behind].concat();
            let length = header.len();
            prop_assert_eq!(parse(&bytes, MAX), Ok(Some(Header { announced: expected, length })));
        }
    }
}
