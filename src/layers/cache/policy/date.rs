//! Dates, as caches read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

const MONTHS: [&[u8]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];

const DAYS: [&[u8]; 7] =
    [b"monday", b"tuesday", b"wednesday", b"thursday", b"friday", b"saturday", b"sunday"];

/// A date in one of the three forms of RFC 9110 §5.6.7, in whatever case (RFC 9111 §4.2);
/// `None` if it is none, or in another zone than GMT. Which day of the week it is said to
/// be does not matter.
pub(in crate::layers::cache) fn parse(text: &[u8]) -> Option<SystemTime> {
    let this_year = || Offset::UTC.to_datetime(Timestamp::now()).year();
    parse_in(&text.to_ascii_lowercase(), this_year)
}

fn parse_in(text: &[u8], this_year: impl Fn() -> i16) -> Option<SystemTime> {
    let is_day = |name: &[u8], short: bool| {
        DAYS.iter().any(|day| if short { name == &day[..3] } else { name == *day })
    };
    let comma = text.iter().position(|byte| *byte == b',');
    let (year, month, day, time) = match (comma, text.len()) {
        // Sun, 06 Nov 1994 08:49:37 GMT
        (Some(3), 29) if is_day(&text[..3], true) => {
            let [b',', b' ', day @ .., b' '] = &text[3..8] else { return None };
            let (b' ', b" gmt") = (text[11], &text[25..]) else { return None };
            let b' ' = text[16] else { return None };
            (number(&text[12..16])?, &text[8..11], number(day)?, &text[17..25])
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        (Some(at), length) if length == at + 24 && is_day(&text[..at], false) => {
            let date = &text[at..];
            let [b',', b' ', day @ .., b'-'] = &date[..5] else { return None };
            let (b'-', b' ', b" gmt") = (date[8], date[11], &date[20..]) else { return None };
            let year = in_full(number(&date[9..11])?, this_year());
            (year, &date[5..8], number(day)?, &date[12..20])
        }
        // Sun Nov  6 08:49:37 1994
        (None, 24) if is_day(&text[..3], true) => {
            let (b' ', b' ', b' ', b' ') = (text[3], text[7], text[10], text[19]) else {
                return None;
            };
            let day = number(text[8..10].trim_ascii_start())?;
            (number(&text[20..])?, &text[4..7], day, &text[11..19])
        }
        _ => return None,
    };
    let month = i8::try_from(MONTHS.iter().position(|name| *name == month)? + 1).ok()?;
    let (b':', b':') = (time[2], time[5]) else { return None };
    let of_time = |at: usize| i8::try_from(number(&time[at..at + 2])?).ok();
    // A leap second is as good as the one before it.
    let (hour, minute, second) = (of_time(0)?, of_time(3)?, of_time(6)?);
    let second = if second == 60 { 59 } else { second };
    let day = i8::try_from(day).ok()?;
    let time = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let seconds = Offset::UTC.to_timestamp(time).ok()?.as_second();
    let since = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) }
}

/// RFC 9110 §5.6.7: a year of two digits is no more than fifty years ahead.
fn in_full(year: i16, this_year: i16) -> i16 {
    let year = this_year - this_year % 100 + year;
    if year > this_year + 50 { year - 100 } else { year }
}

fn number(digits: &[u8]) -> Option<i16> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let time = parse_in(&text.to_ascii_lowercase().into_bytes(), || 2026)?;
        Some(time.duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    const THEN: Option<u64> = Some(784_111_777);

    #[test]
    fn rfc9110_s5_6_7_all_three_forms_are_read() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), THEN);
        assert_eq!(seconds("Sunday, 06-Nov-94 08:49:37 GMT"), THEN);
        assert_eq!(seconds("Sun Nov  6 08:49:37 1994"), THEN);
        assert_eq!(seconds("Wed Nov 16 08:49:37 1994"), THEN.map(|then| then + 864_000));
        assert_eq!(seconds("Sat, 31 Dec 2016 23:59:60 GMT"), Some(1_483_228_799));
    }

    #[test]
    fn rfc9110_s5_6_7_a_year_of_two_digits_is_no_more_than_fifty_years_ahead() {
        let year = |text: &str| in_full(text.parse().unwrap(), 2026);
        assert_eq!((year("94"), year("26"), year("76"), year("77")), (1994, 2026, 2076, 1977));
    }

    #[test]
    fn rfc9111_s4_2_their_case_does_not_matter() {
        assert_eq!(seconds("SUN, 06 NOV 1994 08:49:37 gmt"), THEN);
        assert_eq!(seconds("sunday, 06-nov-94 08:49:37 Gmt"), THEN);
        assert_eq!(seconds("sun nov  6 08:49:37 1994"), THEN);
        assert_eq!(seconds("Mon, 06 Nov 1994 08:49:37 GMT"), THEN, "nor their day of the week");
    }

    #[test]
    fn rfc9111_s4_2_what_is_no_date_or_in_another_zone_is_none() {
        for wrong in [
            "",
            "0",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0100",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Foo, 06 Nov 1994 08:49:37 GMT",
            "Sun  06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 +994",
            ",,,,,,,,,,,,,,,,,,,,,,,,,,,,,",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
