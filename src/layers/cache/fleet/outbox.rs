//! Purges that are to be told, in order.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::Purge;

/// How many may wait. If there are more, all of them become one: everything is to be
/// validated, which is what any of them asks for, and more.
const MOST: usize = 1_024;

/// Purges that are to be told. They wait here while Redis cannot be reached.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with its number.
    purges: VecDeque<(u64, Put)>,
    next: u64,
}

/// A purge that is to be told.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) what: Purge,
    pub(super) soft: bool,
    /// Who waits to hear its id in the stream.
    pub(super) told: Option<oneshot::Sender<String>>,
}

impl Outbox {
    pub(super) fn put(&self, put: Put) {
        let mut waiting = self.waiting.lock();
        if waiting.purges.len() >= MOST {
            tracing::warn!(
                waiting = MOST,
                "cache fleet: too many purges wait to be told; instead of each of them the \
                 others will be told to validate everything"
            );
            waiting.purges.clear();
            waiting.add(Put { what: Purge::All, soft: true, told: put.told });
        } else {
            waiting.add(put);
        }
        drop(waiting);
        self.more.notify_one();
    }

    /// The same for what clients bring about: it does not push others aside, and what
    /// waits already is not told twice.
    pub(super) fn put_if_room(&self, put: Put) {
        let mut waiting = self.waiting.lock();
        let full = waiting.purges.len() >= MOST / 2;
        // The first may be on its way.
        let mut behind = waiting.purges.iter().skip(1);
        if full || behind.any(|(_, known)| known.what == put.what && known.soft == put.soft) {
            return;
        }
        waiting.add(put);
        drop(waiting);
        self.more.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().purges.len()
    }

    /// The first, with its number, once there is one. It stays until it is
    /// [told](Self::told).
    #[cfg(feature = "redis")]
    pub(super) async fn first(&self) -> (u64, Purge, bool) {
        loop {
            if let Some((number, put)) = self.waiting.lock().purges.front() {
                return (*number, put.what.clone(), put.soft);
            }
            self.more.notified().await;
        }
    }

    /// The one with this number stands in the stream under this id.
    #[cfg(feature = "redis")]
    pub(super) fn told(&self, number: u64, id: &str) {
        let mut waiting = self.waiting.lock();
        if waiting.purges.front().is_some_and(|(first, _)| *first == number)
            && let Some((_, Put { told: Some(told), .. })) = waiting.purges.pop_front()
        {
            // Whoever asked may not wait any more.
            let _nobody = told.send(id.to_owned());
        }
    }
}

impl Waiting {
    fn add(&mut self, put: Put) {
        self.purges.push_back((self.next, put));
        self.next += 1;
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;

    fn tag(number: usize) -> Put {
        Put { what: Purge::Tag(number.to_string()), soft: false, told: None }
    }

    #[tokio::test]
    async fn they_are_told_in_order_and_stay_until_they_are() {
        let outbox = Outbox::default();
        outbox.put(tag(0));
        outbox.put(tag(1));
        let (number, what, _) = outbox.first().await;
        assert_eq!(what, Purge::Tag("0".into()));
        assert_eq!(outbox.first().await.0, number);
        outbox.told(number, "1-1");
        assert_eq!(outbox.first().await.1, Purge::Tag("1".into()));
        outbox.told(number, "1-1");
        assert_eq!(outbox.len(), 1);
    }

    #[tokio::test]
    async fn too_many_become_one_that_stands_for_all() {
        let outbox = Outbox::default();
        for number in 0..=MOST {
            outbox.put(tag(number));
        }
        let (_, what, soft) = outbox.first().await;
        assert_eq!((what, soft, outbox.len()), (Purge::All, true, 1));
    }

    #[tokio::test]
    async fn what_clients_bring_about_leaves_room_and_waits_once() {
        let outbox = Outbox::default();
        for number in [0, 1, 1, 1, 0] {
            outbox.put_if_room(tag(number));
        }
        assert_eq!(outbox.len(), 3);
        for number in 0..2 * MOST {
            outbox.put_if_room(tag(number));
        }
        assert_eq!(outbox.len(), MOST / 2);
    }
}
