//! `grpc-timeout`: how long a caller will wait.

use std::time::Duration;

/// Eight digits are the most that may be (`TimeoutValue`).
const MAX_DIGITS: usize = 8;

/// Reads up to eight digits and a unit, such as `250m`: `H`, `M`, `S`, `m`, `u`
/// and `n` are hours, minutes, seconds, and their thousandths, millionths and
/// billionths.
pub(super) fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(value * 60 * 60),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Writes a time in the finest unit that it fits in, rounded down.
pub(super) fn format(time: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let units = [(time.as_nanos(), 'n'), (time.as_micros(), 'u'), (time.as_millis(), 'm')];
    let seconds = u128::from(time.as_secs());
    let units = units.into_iter().chain([(seconds, 'S'), (seconds / 60, 'M')]);
    let fits = units.into_iter().find(|(value, _)| *value <= MOST);
    let (value, unit) = fits.unwrap_or(((seconds / 3600).min(MOST), 'H'));
    format!("{value}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_known() {
        let units = [("2H", 7_200_000_000_000), ("2M", 120_000_000_000), ("2S", 2_000_000_000)];
        let small = [("250m", 250_000_000), ("7u", 7_000), ("00000001n", 1), ("0n", 0)];
        for (text, nanos) in units.into_iter().chain(small) {
            assert_eq!(parse(text.as_bytes()), Some(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(parse(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        for text in ["", "1", "S", "1s", "-1S", "+1S", "1.5S", " 1S", "1S ", "123456789n", "1h"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_and_is_never_more(nanos: u64) {
            let time = Duration::from_nanos(nanos);
            let back = parse(format(time).as_bytes()).unwrap();
            prop_assert!(back <= time);
            prop_assert!(time - back <= time / 1000 + Duration::from_nanos(1));
        }

        #[test]
        fn no_text_is_too_odd(text: Vec<u8>) {
            let _ = parse(&text);
        }
    }
}
