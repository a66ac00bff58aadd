//! Which node of a cluster has which keys.

use ::redis::Value;

use super::RedisUrl;

/// How many slots keys are put into.
pub(super) const SLOTS: u16 = 16_384;

/// The slots from the first to the last, and the master that has them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: RedisUrl,
}

/// The slot of a key: by what stands between the first `{` and the next `}`, if anything
/// does, so that keys that belong together are on one node.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tagged = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tagged.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// What `CLUSTER SLOTS` answers; `asked` is who was asked, which may not know what it is
/// called itself.
pub(super) fn read(answer: &Value, asked: &RedisUrl) -> Option<Vec<Range>> {
    let Value::Array(ranges) = answer else { return None };
    ranges.iter().map(|range| read_range(range, asked)).collect()
}

fn read_range(range: &Value, asked: &RedisUrl) -> Option<Range> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    let number = |slot: &i64| u16::try_from(*slot).ok().filter(|slot| *slot < SLOTS);
    let [host, Value::Int(port), ..] = master.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::Nil => "",
        _ => return None,
    };
    let host = if matches!(host, "" | "?") { &asked.host } else { host };
    let (host, port) = (host.to_owned(), u16::try_from(*port).ok()?);
    let master = RedisUrl { tls: asked.tls, host, port, database: 0 };
    Some(Range { first: number(first)?, last: number(last)?, master })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_slots_that_redis_has_for_them() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, expected) in [
            ("foo", 12_182),
            ("user1000", 3_443),
            ("{user1000}.following", 3_443),
            ("foo{}{bar}", slot(b"foo{}{bar}")),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"foo{{bar}}zap"), crc16(b"{bar") % SLOTS);
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot(b"foo{bar}{zap}"), crc16(b"bar") % SLOTS);
    }

    #[test]
    fn a_map_is_read_and_nothing_that_is_none() {
        let asked: RedisUrl = "redis://10.0.0.1:7000".parse().unwrap();
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |first, last, host, port| {
            let master =
                Value::Array(vec![host, Value::Int(port), bulk("id"), Value::Array(vec![])]);
            Value::Array(vec![Value::Int(first), Value::Int(last), master.clone(), master])
        };
        let answer = Value::Array(vec![
            range(0, 99, bulk("10.0.0.2"), 7001),
            range(100, 16_383, Value::Nil, 7000),
        ]);
        let read_ranges = read(&answer, &asked).unwrap();
        assert_eq!(read_ranges[0].master.to_string(), "redis://10.0.0.2:7001");
        assert_eq!((read_ranges[0].first, read_ranges[0].last), (0, 99));
        assert_eq!(read_ranges[1].master, asked);
        for wrong in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![range(0, 16_384, bulk("a"), 1)]),
            Value::Array(vec![range(-1, 1, bulk("a"), 1)]),
            Value::Array(vec![range(0, 1, bulk("a"), 65_536)]),
            Value::Array(vec![range(0, 1, Value::Int(1), 1)]),
        ] {
            assert_eq!(read(&wrong, &asked), None);
        }
    }
}
