//! What a reload is going to change, before it does.
//!
//! Listeners, upstreams, authenticators and routes are the same if their names are, origins if
//! their URLs are within one upstream, and certificates if their files are within
//! one listener.

mod auth;
mod keys;
mod limits;
mod listeners;
mod process;
mod routes;
mod spell;
#[cfg(test)]
mod tests;
mod text;
mod upstreams;

use std::path::Path;

use serde::Serialize;

use self::keys::Keys;
pub use self::keys::{Difference, KeyChange};
use super::Settings;
use crate::accept::ListenerSettings;
use crate::layers::AuthenticatorSettings;
use crate::tls::{CertificateSettings, ClientAuthSettings};
use crate::upstream::{OriginSettings, UpstreamSettings};

/// What changes between two configurations, and what is kept.
///
/// It shows no secret: of API keys, field values and bodies it says no more than
/// that they changed.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Plan {
    /// Listeners, by name.
    pub listeners: Part,
    /// Certificates, and what clients' are judged by, by file within their listener.
    pub certificates: Part,
    /// Upstreams, by name.
    pub upstreams: Part,
    /// Origins, by URL within their upstream.
    pub origins: Part,
    /// The ways of telling who asks, by name.
    pub authenticators: Part,
    /// Routes, by name.
    pub routes: Part,
    /// The tables that are there once and say something else, such as `server`.
    pub settings: Vec<Item>,
    /// Keys that only a new process follows, by restart or upgrade. What runs stays
    /// as it is: see [`Settings::keep_running`].
    pub needs_restart: Vec<KeyChange>,
}

/// What becomes of the things of one kind.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Part {
    /// Those there were none of that name.
    pub added: Vec<Item>,
    /// Those that are the same by name, but not in all they say.
    pub changed: Vec<Item>,
    /// Those there are no longer.
    pub removed: Vec<Item>,
    /// How many stay as they are.
    pub kept: usize,
}

/// One thing that is added, changed or removed.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Item {
    /// Its name, URL or file.
    pub name: String,
    /// The upstream of an origin, the listener of a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What of it changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<KeyChange>,
    /// What that brings about, where it matters; a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<String>,
}

/// A certificate that is, or is going to be, in use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateInUse {
    /// Its listener.
    pub listener: String,
    /// The file of its chain, as the settings name it.
    pub file: String,
    /// What tells it from others.
    pub fingerprint: String,
    /// When it expires.
    pub not_after: String,
}

/// Something to compare.
struct Thing<T> {
    name: String,
    of: Option<String>,
    keys: Keys,
    /// All of it but what is compared by itself. If it differs and no key does,
    /// then something is missing among the keys.
    whole: T,
}

impl Plan {
    /// What putting `new` in the place of `old` changes.
    #[must_use]
    pub fn between(old: &Settings, new: &Settings) -> Self {
        let mut plan = Self {
            listeners: part(listeners(old), listeners(new)),
            certificates: part(certificates(old), certificates(new)),
            upstreams: part(upstreams(old), upstreams(new)),
            origins: part(origins(old), origins(new)),
            authenticators: part(authenticators(old), authenticators(new)),
            routes: part(routes(old), routes(new)),
            ..Self::default()
        };
        plan.compare_tables(old, new);
        for item in &mut plan.upstreams.changed {
            let old = old.upstreams.iter().find(|one| one.name == item.name);
            let new = new.upstreams.iter().find(|one| one.name == item.name);
            if let (Some(old), Some(new)) = (old, new) {
                item.effects = upstreams::effects(old, new, &item.changes);
            }
        }
        for item in &mut plan.routes.changed {
            let old = old.routes.iter().find(|one| one.name == item.name);
            let new = new.routes.iter().find(|one| one.name == item.name);
            if let (Some(old), Some(new)) = (old, new) {
                item.effects = routes::effects(old, new);
            }
        }
        plan
    }

    /// Adds which certificates are others although their files are the same.
    pub fn certificates(&mut self, old: &[CertificateInUse], new: &[CertificateInUse]) {
        let part = &mut self.certificates;
        for now in new {
            let same =
                |one: &&CertificateInUse| one.listener == now.listener && one.file == now.file;
            let is_it = |item: &&mut Item| {
                item.name == now.file && item.of.as_deref() == Some(&*now.listener)
            };
            let expiry = |one: &CertificateInUse| {
                format!("{} until {}", abridged(&one.fingerprint), one.not_after)
            };
            let Some(before) = old.iter().find(same) else { continue };
            if before.fingerprint == now.fingerprint {
                continue;
            }
            let change = KeyChange {
                key: "fingerprint".to_owned(),
                change: Difference::Value { from: Some(expiry(before)), to: Some(expiry(now)) },
            };
            match part.changed.iter_mut().find(is_it) {
                Some(item) if item.changes.contains(&change) => {}
                Some(item) => item.changes.push(change),
                None => {
                    part.kept = part.kept.saturating_sub(1);
                    part.changed.push(Item {
                        name: now.file.clone(),
                        of: Some(now.listener.clone()),
                        changes: vec![change],
                        effects: Vec::new(),
                    });
                }
            }
        }
    }

    /// Adds that the certificates which the origins of `upstream` are trusted by are
    /// others although their file is the same.
    pub fn trusts_others(&mut self, upstream: &str) {
        const EFFECT: &str = "the file of tls.ca holds others: connections are made anew";
        let part = &mut self.upstreams;
        if let Some(item) = part.changed.iter_mut().find(|item| item.name == upstream) {
            item.effects.push(EFFECT.to_owned());
        } else if !part.added.iter().any(|item| item.name == upstream) {
            part.kept = part.kept.saturating_sub(1);
            let (name, effects) = (upstream.to_owned(), vec![EFFECT.to_owned()]);
            part.changed.push(Item { name, effects, ..Item::default() });
        }
    }

    /// Whether anything is in force as soon as it is carried out.
    #[must_use]
    pub fn changes_anything(&self) -> bool {
        let Counts { added, changed, removed, .. } = self.counts();
        added + changed + removed > 0
    }

    /// Whether nothing changes, nor would with a restart.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.changes_anything() && self.needs_restart.is_empty()
    }

    fn compare_tables(&mut self, old: &Settings, new: &Settings) {
        for ((table, old), (_, new)) in process::tables(old).into_iter().zip(process::tables(new)) {
            let name = |change: &KeyChange| format!("{table}.{}", change.key);
            let (later, now): (Vec<_>, Vec<_>) = old
                .changes(&new)
                .into_iter()
                .partition(|change| process::OF_THE_PROCESS.contains(&&*name(change)));
            let later = later.into_iter().map(|change| KeyChange { key: name(&change), ..change });
            self.needs_restart.extend(later);
            if !now.is_empty() {
                let effects = process::effects(table);
                self.settings.push(Item {
                    name: table.to_owned(),
                    changes: now,
                    effects,
                    of: None,
                });
            }
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts { changed: self.settings.len(), ..Counts::default() };
        for part in [
            &self.listeners,
            &self.certificates,
            &self.upstreams,
            &self.origins,
            &self.authenticators,
            &self.routes,
        ] {
            counts.added += part.added.len();
            counts.changed += part.changed.len();
            counts.removed += part.removed.len();
            counts.kept += part.kept;
        }
        counts
    }
}

impl Settings {
    /// Has these settings say what `running` says wherever only a new process
    /// could follow, so that they are what is in force once they are put in its
    /// place. [`Plan::between`] names what that is, so it comes first.
    pub fn keep_running(&mut self, running: &Self) {
        process::leave(self, running);
    }
}

#[derive(Default)]
struct Counts {
    added: usize,
    changed: usize,
    removed: usize,
    kept: usize,
}

/// Compares things of one kind.
fn part<T: PartialEq>(mut old: Vec<Thing<T>>, new: Vec<Thing<T>>) -> Part {
    let mut part = Part::default();
    for thing in new {
        let same = |one: &Thing<T>| one.name == thing.name && one.of == thing.of;
        let item = Item { name: thing.name.clone(), of: thing.of.clone(), ..Item::default() };
        let Some(index) = old.iter().position(same) else {
            part.added.push(item);
            continue;
        };
        let before = old.remove(index);
        let mut changes = before.keys.changes(&thing.keys);
        if changes.is_empty() && before.whole != thing.whole {
            changes.push(KeyChange::unnamed());
        }
        if changes.is_empty() {
            part.kept += 1;
        } else {
            part.changed.push(Item { changes, ..item });
        }
    }
    let removed = |thing: Thing<T>| Item { name: thing.name, of: thing.of, ..Item::default() };
    part.removed = old.into_iter().map(removed).collect();
    part
}

fn authenticators(settings: &Settings) -> Vec<Thing<AuthenticatorSettings>> {
    let thing = |one: &AuthenticatorSettings| Thing {
        name: one.name.clone(),
        of: None,
        keys: auth::authenticator(one),
        whole: one.clone(),
    };
    settings.authenticators.iter().map(thing).collect()
}

fn listeners(settings: &Settings) -> Vec<Thing<ListenerSettings>> {
    let thing = |listener: &ListenerSettings| {
        let mut whole = listener.clone();
        if let Some(tls) = &mut whole.tls {
            tls.certificates.clear();
        }
        Thing { name: listener.name.clone(), of: None, keys: listeners::listener(listener), whole }
    };
    settings.listeners.iter().map(thing).collect()
}

/// Those that clients are shown, and the files by which clients are judged.
fn certificates(settings: &Settings) -> Vec<Thing<Option<CertificateSettings>>> {
    let mut things = Vec::new();
    for listener in &settings.listeners {
        let Some(tls) = &listener.tls else { continue };
        let thing = |file: &Path, keys, whole| Thing {
            name: spell::path(file),
            of: Some(listener.name.clone()),
            keys,
            whole,
        };
        let shown = tls.certificates.iter();
        things
            .extend(shown.map(|one| {
                thing(&one.certificate, listeners::certificate(one), Some(one.clone()))
            }));
        let judge = tls.client_auth.iter().flat_map(ClientAuthSettings::files);
        things.extend(judge.map(|file| thing(file, Keys::default(), None)));
    }
    things
}

fn upstreams(settings: &Settings) -> Vec<Thing<UpstreamSettings>> {
    let thing = |upstream: &UpstreamSettings| Thing {
        name: upstream.name.clone(),
        of: None,
        keys: upstreams::upstream(upstream),
        whole: UpstreamSettings { origins: Vec::new(), ..upstream.clone() },
    };
    settings.upstreams.iter().map(thing).collect()
}

fn origins(settings: &Settings) -> Vec<Thing<OriginSettings>> {
    let all = settings
        .upstreams
        .iter()
        .flat_map(|upstream| upstream.origins.iter().map(|origin| (upstream.name.clone(), origin)));
    let thing = |(upstream, origin): (String, &OriginSettings)| Thing {
        name: origin.url.to_string(),
        of: Some(upstream),
        keys: upstreams::origin(origin),
        whole: origin.clone(),
    };
    all.map(thing).collect()
}

fn routes(settings: &Settings) -> Vec<Thing<super::RouteSettings>> {
    let thing = |route: &super::RouteSettings| Thing {
        name: route.name.clone(),
        of: None,
        keys: routes::route(route),
        whole: route.clone(),
    };
    settings.routes.iter().map(thing).collect()
}

/// Enough of a fingerprint to tell two apart.
fn abridged(fingerprint: &str) -> String {
    let short: String = fingerprint.chars().take(12).collect();
    if short.len() < fingerprint.len() { format!("{short}…") } else { short }
}
