//! Values as a file spells them; `units` reads them.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use crate::config::MemoryBudget;
use crate::pace::MinRate;

use super::keys::Keys;

/// Where nothing is said.
pub(super) const NONE: &str = "none";

pub(super) fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

pub(super) fn duration_or_off(time: Duration) -> String {
    if time.is_zero() { "off".to_owned() } else { duration(time) }
}

/// In the largest unit that leaves nothing over.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

pub(super) fn memory_size(bytes: usize) -> String {
    size(bytes as u64)
}

pub(super) fn budget(budget: MemoryBudget) -> String {
    match budget {
        MemoryBudget::Share(hundredths) => format!("{hundredths}%"),
        MemoryBudget::Bytes(bytes) => memory_size(bytes),
        MemoryBudget::Unlimited => "unlimited".to_owned(),
    }
}

/// The two keys of a least rate. Without one there is no grace either.
pub(super) fn min_rate(
    keys: &mut Keys,
    rate: &'static str,
    grace: &'static str,
    min_rate: Option<MinRate>,
) {
    let Some(MinRate { bytes, grace: time }) = min_rate else {
        keys.one(rate, "off");
        return;
    };
    keys.one(rate, per_second(bytes));
    let mut with_rate = Keys::default();
    with_rate.one(grace, duration(time));
    keys.with(rate, with_rate);
}

fn per_second(bytes: NonZeroU64) -> String {
    format!("{}/s", size(bytes.get()))
}

pub(super) fn path(path: &Path) -> String {
    path.display().to_string()
}

/// An optional value.
pub(super) fn or_none<T>(value: Option<T>, spell: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), spell)
}
