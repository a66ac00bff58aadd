//! Version 2: binary (§2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Announced, Header, Invalid, begins};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What stands before the block of addresses.
pub(super) const FIXED: usize = 16;

/// Two Unix addresses.
pub(super) const UNIX: usize = 2 * 108;

const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// `PP2_TYPE_CRC32C`
const CRC32C: u8 = 0x03;

pub(super) fn parse(bytes: &[u8], max: usize) -> Result<Option<Header>, Invalid> {
    if !begins(bytes, SIGNATURE) {
        return Err(Invalid::Missing);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let [.., command, protocol, high, low] = *fixed;
    let block = usize::from(u16::from_be_bytes([high, low]));
    let length = FIXED + block;
    if !matches!(command, V2_LOCAL | V2_PROXY) {
        return Err(Invalid::Malformed("the version is not 2, or the command is unknown"));
    }
    if length > max {
        return Err(Invalid::Oversize);
    }
    if command == V2_LOCAL {
        // Whatever family it names, and whatever stands in its block.
        let announced = Announced::Local;
        return Ok((bytes.len() >= length).then_some(Header { announced, length }));
    }
    let addresses = match (protocol >> 4, protocol & 0x0f) {
        (0..=3, 3..) | (4.., _) => {
            return Err(Invalid::Malformed("the family or the protocol is unknown"));
        }
        // Where nothing is specified of the addresses, nothing is of what follows.
        (0, _) | (_, 0) => block,
        (1, _) => 2 * 4 + 2 * 2,
        (2, _) => 2 * 16 + 2 * 2,
        (3, _) => UNIX,
    };
    if addresses > block {
        return Err(Invalid::Malformed("the addresses do not fit into the block"));
    }
    let Some(block) = rest.get(..block) else { return Ok(None) };
    let (addresses, tlvs) = block.split_at(addresses);
    check(&bytes[..length], tlvs)?;
    let client = match protocol {
        TCP4 => two::<4, Ipv4Addr>(addresses),
        TCP6 => two::<16, Ipv6Addr>(addresses),
        // Not understood, and so as good as unspecified.
        _ => None,
    };
    let announced = client.map_or(Announced::Unknown, Announced::Client);
    Ok(Some(Header { announced, length }))
}

/// Two addresses of `N` bytes, and their ports.
fn two<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(block: &[u8]) -> Option<Addresses> {
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk::<2>()?;
    let (to, _) = rest.split_first_chunk::<2>()?;
    let socket = |address: &[u8; N], port: &[u8; 2]| {
        SocketAddr::new(A::from(*address).into(), u16::from_be_bytes(*port))
    };
    Some(Addresses { source: socket(source, from), destination: socket(destination, to) })
}

/// Looks whether the TLVs are whole, and the checksum right if there is one.
fn check(header: &[u8], tlvs: &[u8]) -> Result<(), Invalid> {
    let mut rest = tlvs;
    while let Some((kind, after)) = rest.split_first() {
        let value = after.split_first_chunk::<2>().and_then(|(length, after)| {
            let length = usize::from(u16::from_be_bytes(*length));
            Some((after.get(..length)?, &after[length..]))
        });
        let Some((value, after)) = value else {
            return Err(Invalid::Malformed("a TLV is longer than the block"));
        };
        if *kind == CRC32C {
            let Ok(expected) = <[u8; 4]>::try_from(value) else {
                return Err(Invalid::Malformed("the checksum is not of 32 bits"));
            };
            let at = header.len() - after.len() - value.len();
            let zeros = [0; 4];
            let parts = [&header[..at], &zeros, &header[at + value.len()..]];
            if crc32c(parts) != u32::from_be_bytes(expected) {
                return Err(Invalid::Malformed("the checksum is wrong"));
            }
        }
        rest = after;
    }
    Ok(())
}

/// RFC 9260, appendix A; bit by bit, over a few hundred bytes at the most.
fn crc32c<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.into_iter().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

pub(super) fn write(announced: Announced) -> Vec<u8> {
    let (command, protocol, block) = match announced {
        Announced::Local => (V2_LOCAL, 0, Vec::new()),
        Announced::Unknown => (V2_PROXY, 0, Vec::new()),
        Announced::Client(Addresses { source, destination }) => {
            let (protocol, mut block) = match (source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    (TCP4, [source.octets(), destination.octets()].concat())
                }
                (source, destination) => (TCP6, [v6(source), v6(destination)].concat()),
            };
            block.extend(source.port().to_be_bytes());
            block.extend(destination.port().to_be_bytes());
            (V2_PROXY, protocol, block)
        }
    };
    let mut header = Vec::with_capacity(FIXED + block.len());
    header.extend_from_slice(SIGNATURE);
    header.extend([command, protocol]);
    #[allow(clippy::cast_possible_truncation, reason = "36 at the most")]
    header.extend((block.len() as u16).to_be_bytes());
    header.extend(block);
    header
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_is_meant() {
        assert_eq!(crc32c([b"123456789"]), 0xe306_9283);
        assert_eq!(crc32c([b"1234", b"", b"56789"]), 0xe306_9283);
    }
}
