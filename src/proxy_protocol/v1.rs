//! Version 1: a line of text (§2.1).

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Addresses, Announced, Header, Invalid, begins};

const SIGNATURE: &[u8] = b"PROXY ";

/// The longest line, with its end.
const LONGEST: usize = 107;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, Invalid> {
    if !begins(bytes, SIGNATURE) {
        return Err(Invalid::Missing);
    }
    let within = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LONGEST { Ok(None) } else { Err(Invalid::Oversize) };
    };
    let announced = read(&bytes[SIGNATURE.len()..end])?;
    Ok(Some(Header { announced, length: end + 2 }))
}

/// What stands behind the signature.
fn read(line: &[u8]) -> Result<Announced, Invalid> {
    let space = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let (protocol, rest) = line.split_at(space);
    let words = || {
        let words = std::str::from_utf8(rest).ok().and_then(|rest| rest.strip_prefix(' '));
        words.ok_or(Invalid::Malformed("an address is none"))
    };
    match protocol {
        // What follows is to be ignored.
        b"UNKNOWN" => Ok(Announced::Unknown),
        b"TCP4" => addresses::<Ipv4Addr>(words()?),
        b"TCP6" => addresses::<Ipv6Addr>(words()?),
        _ => Err(Invalid::Malformed("the protocol is not TCP4, TCP6 or UNKNOWN")),
    }
}

fn addresses<A: FromStr + Into<IpAddr>>(words: &str) -> Result<Announced, Invalid> {
    let mut words = words.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let address = |text: &str| {
        let address: A = text.parse().map_err(|_| Invalid::Malformed("an address is none"))?;
        Ok(address.into())
    };
    let (source, destination) = (address(word())?, address(word())?);
    let (from, to) = (port(word())?, port(word())?);
    if words.next().is_some() {
        return Err(Invalid::Malformed("something stands behind the ports"));
    }
    Ok(Announced::Client(Addresses {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    }))
}

/// Digits only, and no zero before others.
fn port(text: &str) -> Result<u16, Invalid> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    let number = if digits && !padded { text.parse().ok() } else { None };
    number.ok_or(Invalid::Malformed("a port is none"))
}

/// This version knows no connection of the sender's own: that is UNKNOWN, too.
pub(super) fn write(announced: Announced) -> Vec<u8> {
    match announced {
        Announced::Local | Announced::Unknown => b"PROXY UNKNOWN\r\n".to_vec(),
        Announced::Client(Addresses { source, destination }) => {
            let (from, to) = (source.port(), destination.port());
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    line("TCP4", source, destination, from, to)
                }
                (source, destination) => line("TCP6", v6(source), v6(destination), from, to),
            }
        }
    }
}

fn line(
    protocol: &str,
    source: impl Display,
    destination: impl Display,
    from: u16,
    to: u16,
) -> Vec<u8> {
    format!("PROXY {protocol} {source} {destination} {from} {to}\r\n").into_bytes()
}

/// An address in hexadecimal digits only: the specification has no dotted end.
fn v6(address: IpAddr) -> String {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    match v6.to_ipv4_mapped() {
        Some(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("::ffff:{:x}:{:x}", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
        }
        None => v6.to_string(),
    }
}
