//! How long the answers are that come in one after the other.

/// Where each answer of a stream of them ends, so that each can be bounded by itself however
/// many come: on one connection there may be tens of thousands in a second.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// How much has come of this answer, in bytes.
    length: u64,
    /// How many values are yet to come of it; 0 between answers.
    values: u64,
    /// What the line is that is coming: its first byte, and the number that it says.
    line: Option<(u8, u64)>,
    /// The number is negative.
    negative: bool,
    /// How much of a string is yet to come, with the end of its line.
    string: u64,
}

impl Answers {
    /// More has come; `false` if an answer is longer than `limit` bytes.
    pub(super) fn are_within(&mut self, limit: u64, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if self.string > 0 {
                let here = usize::try_from(self.string).map_or(bytes.len(), |n| n.min(bytes.len()));
                self.string -= here as u64;
                self.length += here as u64;
                bytes = &bytes[here..];
                if self.length > limit {
                    return false;
                }
                if self.string == 0 {
                    self.value_ends();
                }
                continue;
            }
            bytes = rest;
            self.length += 1;
            if self.length > limit {
                return false;
            }
            match (&mut self.line, first) {
                (None, kind) => {
                    self.values = self.values.max(1);
                    (self.line, self.negative) = (Some((*kind, 0)), false);
                }
                (Some((kind, number)), b'\n') => {
                    let (kind, number) = (*kind, *number);
                    self.line_ends(kind, number);
                }
                (Some(_), b'-') => self.negative = true,
                (Some((_, number)), digit @ b'0'..=b'9') => {
                    *number = number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
                }
                (Some(_), _) => {}
            }
        }
        true
    }

    fn line_ends(&mut self, kind: u8, number: u64) {
        self.line = None;
        let number = if self.negative { None } else { Some(number) };
        match (kind, number) {
            (b'$', Some(length)) => {
                self.string = length.saturating_add(2);
                return;
            }
            (b'*', Some(values)) => self.values = self.values.saturating_add(values),
            _ => {}
        }
        self.value_ends();
    }

    fn value_ends(&mut self) {
        self.values = self.values.saturating_sub(1);
        if self.values == 0 {
            self.length = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: [&str; 9] = [
        "+OK\r\n",
        "-ERR no 17 of these\r\n",
        ":-42\r\n",
        "$-1\r\n",
        "$0\r\n\r\n",
        "$12\r\n*3\r\n$5\r\n+-:\n\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*3\r\n*2\r\n:1\r\n$3\r\nabc\r\n*0\r\n$2\r\nxy\r\n",
    ];

    #[test]
    fn each_answer_is_bounded_by_itself_however_it_comes() {
        let longest = EACH.iter().map(|answer| answer.len()).max().unwrap() as u64;
        let all = EACH.concat().repeat(50);
        for size in [1, 2, 3, 7, 100, all.len()] {
            let mut answers = Answers::default();
            for bytes in all.as_bytes().chunks(size) {
                assert!(answers.are_within(longest, bytes), "{size}");
            }
            assert_eq!((answers.length, answers.values), (0, 0), "{size}");
        }
        for answer in EACH {
            let (bytes, length) = (answer.as_bytes(), answer.len() as u64);
            assert!(Answers::default().are_within(length, bytes), "{answer:?}");
            assert!(!Answers::default().are_within(length - 1, bytes), "{answer:?}");
        }
    }

    #[test]
    fn what_never_ends_is_too_long() {
        for endless in ["$99999999999999999999999\r\n", "*18446744073709551615\r\n", "+"] {
            let mut answers = Answers::default();
            assert!(answers.are_within(1_000, endless.as_bytes()));
            assert!(!answers.are_within(1_000, &[b'+'; 1_000]));
        }
        let mut answers = Answers::default();
        assert!(answers.are_within(1_000, b"*1000000\r\n"));
        assert!(!answers.are_within(1_000, ":1\r\n".repeat(300).as_bytes()));
    }
}
