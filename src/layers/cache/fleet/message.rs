//! A purge as an entry of the stream, and read from it.
//!
//! Whoever may write to Redis may write anything there: what is read is checked like what
//! comes from a stranger.

use http::Uri;

use super::Purge;

/// The longest URL, prefix or tag, in bytes.
pub(super) const LONGEST: usize = 8 << 10;

/// The version of these fields. Whoever reads another one passes it over.
const VERSION: &str = "1";

/// The longest name of an instance.
const LONGEST_NAME: usize = 128;

/// Where an entry stands in a stream: a time in milliseconds, and a number within it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Id(u64, u64);

/// What an entry says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Message {
    /// Who has told it.
    pub(super) from: String,
    /// What is to be forgotten; `None` for an entry that only begins a stream.
    pub(super) what: Option<Purge>,
    pub(super) soft: bool,
}

/// Why an entry is passed over.
pub(super) type Garbled = &'static str;

impl Id {
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let (time, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        let whole = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !whole(time) || !whole(number) {
            return None;
        }
        Some(Self(time.parse().ok()?, number.parse().ok()?))
    }
}

impl Id {
    /// The last one before it that there can be.
    pub(super) fn before(self) -> Self {
        match self {
            Self(0, 0) => self,
            Self(time, 0) => Self(time - 1, u64::MAX),
            Self(time, number) => Self(time, number - 1),
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// The length of what a purge names.
pub(super) fn length(what: &Purge) -> usize {
    match what {
        Purge::Url(url) => url.to_string().len(),
        Purge::Prefix(text) | Purge::Tag(text) => text.len(),
        Purge::All => 0,
    }
}

impl Message {
    /// Its fields, name and value.
    pub(super) fn fields(&self) -> [(&'static str, String); 5] {
        let (kind, what) = match &self.what {
            None => ("begin", String::new()),
            Some(Purge::Url(url)) => ("url", url.to_string()),
            Some(Purge::Prefix(prefix)) => ("prefix", prefix.clone()),
            Some(Purge::Tag(tag)) => ("tag", tag.clone()),
            Some(Purge::All) => ("all", String::new()),
        };
        let soft = if self.soft { "1" } else { "0" };
        [
            ("v", VERSION.to_owned()),
            ("from", self.from.clone()),
            ("kind", kind.to_owned()),
            ("what", what),
            ("soft", soft.to_owned()),
        ]
    }

    /// What the fields of an entry say. Fields of other names are left for versions to
    /// come.
    pub(super) fn read<'a>(
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, Garbled> {
        let (mut version, mut from, mut kind, mut what, mut soft) = (None, None, None, None, None);
        for (name, value) in fields {
            let place = match name {
                b"v" => &mut version,
                b"from" => &mut from,
                b"kind" => &mut kind,
                b"what" => &mut what,
                b"soft" => &mut soft,
                _ => continue,
            };
            if value.len() > LONGEST {
                return Err("too long");
            }
            let value = std::str::from_utf8(value).map_err(|_| "not UTF-8")?;
            if place.replace(value).is_some() {
                return Err("a field twice");
            }
        }
        if version.ok_or("no version")? != VERSION {
            return Err("of another version");
        }
        let from = from.filter(|from| !from.is_empty() && from.len() <= LONGEST_NAME);
        let from = from.ok_or("from nobody")?.to_owned();
        let soft = match soft {
            Some("0") => false,
            Some("1") => true,
            _ => return Err("neither soft nor not"),
        };
        let what = match (kind, what.unwrap_or_default()) {
            (Some("begin"), _) => None,
            (Some("all"), "") => Some(Purge::All),
            (Some("url"), url) => Some(Purge::Url(whole(url).ok_or("no URL")?)),
            (Some("prefix"), prefix) if prefix.contains("://") => {
                Some(Purge::Prefix(prefix.to_owned()))
            }
            (Some("tag"), tag) if !tag.is_empty() => Some(Purge::Tag(tag.to_owned())),
            _ => return Err("of an unknown kind"),
        };
        Ok(Self { from, what, soft })
    }
}

fn whole(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    (url.scheme().is_some() && url.authority().is_some()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Result<Message, Garbled> {
        Message::read(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn what_is_told_is_read_alike() {
        for what in [
            None,
            Some(Purge::All),
            Some(Purge::Url("https://a.test/x?y".parse().unwrap())),
            Some(Purge::Prefix("http://a.test/".into())),
            Some(Purge::Tag("pröduct 7".into())),
        ] {
            for soft in [false, true] {
                let message = Message { from: "me".into(), what: what.clone(), soft };
                let fields = message.fields();
                let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
                assert_eq!(read(&fields), Ok(message));
            }
        }
    }

    #[test]
    fn what_nobody_here_has_told_is_passed_over() {
        let sound = [("v", "1"), ("from", "x"), ("kind", "tag"), ("what", "t"), ("soft", "0")];
        assert!(read(&sound).is_ok());
        let with = |name: &str, value: &str| {
            let changed = sound
                .map(|(n, v)| if n == name { (n, value.to_owned()) } else { (n, v.to_owned()) });
            read(&changed.each_ref().map(|(n, v)| (*n, v.as_str())))
        };
        for (name, value) in [
            ("v", "2"),
            ("v", ""),
            ("from", ""),
            ("kind", "everything"),
            ("kind", "all"),
            ("kind", "url"),
            ("kind", "prefix"),
            ("what", ""),
            ("soft", "yes"),
            ("what", &"x".repeat(LONGEST + 1)),
            ("from", &"x".repeat(LONGEST_NAME + 1)),
        ] {
            assert!(with(name, value).is_err(), "{name}={value}");
        }
        assert!(read(&[]).is_err());
        assert!(read(&[("v", "1"), ("v", "1")]).is_err());
        assert!(Message::read([(&b"v"[..], &b"\xff"[..])]).is_err());
        let more = [sound.as_slice(), &[("later", "on")]].concat();
        assert!(read(&more).is_ok());
    }

    #[test]
    fn ids_are_ordered_by_number_and_not_by_text() {
        let id = |text: &str| Id::read(text.as_bytes());
        assert!(id("9-1") < id("10-0"));
        assert!(id("10-9") < id("10-10"));
        assert_eq!(id("10-9").unwrap().to_string(), "10-9");
        assert_eq!(id("10-9").unwrap().before(), id("10-8").unwrap());
        assert!(id("10-0").unwrap().before() > id("9-99").unwrap());
        for wrong in ["", "-", "1", "1-", "+1-2", "1-2-3", "99999999999999999999-0"] {
            assert_eq!(id(wrong), None, "{wrong}");
        }
    }
}
