//! Purges that wait for a disk that is to come.

use std::collections::{HashSet, hash_set};

use super::disk::Wiped;

/// The most that are kept one by one.
const MOST: usize = 1024;

/// What was purged before there was a disk, and softly or not. Their order is nothing:
/// whatever lies there is older than all of them.
#[derive(Debug, Default)]
pub(super) struct Late(HashSet<(Purged, bool)>);

/// What [`Wiped`] tells, for later.
#[derive(Debug, Eq, Hash, PartialEq)]
pub(super) enum Purged {
    Key(Box<str>),
    UrlPrefix(Box<str>),
    Tag(Box<str>),
    All,
}

impl Purged {
    fn of(what: &Wiped<'_>) -> Self {
        match *what {
            Wiped::Key(key) => Self::Key(key.into()),
            Wiped::UrlPrefix(prefix) => Self::UrlPrefix(prefix.into()),
            Wiped::Tag(tag) => Self::Tag(tag.into()),
            Wiped::All => Self::All,
        }
    }

    pub(super) fn wiped(&self) -> Wiped<'_> {
        match self {
            Self::Key(key) => Wiped::Key(key),
            Self::UrlPrefix(prefix) => Wiped::UrlPrefix(prefix),
            Self::Tag(tag) => Wiped::Tag(tag),
            Self::All => Wiped::All,
        }
    }
}

impl Late {
    pub(super) fn add(&mut self, what: &Wiped<'_>, soft: bool) {
        const EVERYTHING: (Purged, bool) = (Purged::All, false);
        if self.0.contains(&EVERYTHING) {
            return;
        }
        self.0.insert((Purged::of(what), soft));
        if self.0.len() > MOST || self.0.contains(&EVERYTHING) {
            self.0 = HashSet::from([EVERYTHING]);
        }
    }
}

impl<'a> IntoIterator for &'a Late {
    type Item = &'a (Purged, bool);
    type IntoIter = hash_set::Iter<'a, (Purged, bool)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_become_one_of_everything() {
        let mut late = Late::default();
        for number in (0..MOST).chain(0..10) {
            late.add(&Wiped::Key(&number.to_string()), false);
        }
        assert_eq!(late.0.len(), MOST);
        late.add(&Wiped::All, true);
        late.add(&Wiped::Tag("x"), false);
        assert!(late.into_iter().eq([&(Purged::All, false)]));
    }
}
