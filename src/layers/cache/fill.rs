//! Takes a body from its origin while it is stored, and while others read it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;

use super::content::Growing;
use super::flight::Leading;
use super::place::Place;
use crate::body::Body;
use crate::error::{Error, Kind, cause_of};

/// How much is kept for those who come a little later of what memory does not take.
const FOR_THE_NEXT: u64 = 1 << 20;

/// As fast as it comes until it is stored. Of what is too long for memory only a window
/// is kept: it comes as fast as those read who share it, and is stored on disk as far as
/// that keeps up.
pub(super) async fn fill(
    mut place: Option<Place>,
    growing: Arc<Growing>,
    mut body: Body,
    mut lead: Option<Leading>,
) {
    let Some(route) = place.as_ref().map(|place| place.route().clone()) else {
        return pass_on(&growing, &mut body).await;
    };
    let shared = route.cache.shared();
    let most_at_once = usize::try_from(shared.memory.capacity() / 2).unwrap_or(usize::MAX);
    let in_memory = place.as_ref().is_some_and(Place::is_in_memory);
    let most_kept = if in_memory { route.most_in_memory() } else { FOR_THE_NEXT };
    let mut held = Held { filling: &shared.filling, bytes: 0 };
    let (mut length, mut keeps) = (0, true);
    loop {
        let data = match body.frame().await {
            None => break,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                // Trailers are not stored (RFC 9111 §3.1 lets us).
                Err(_) => continue,
            },
            Some(Err(error)) => return growing.end(Err(kind_of(error.as_ref()))),
        };
        length += data.len() as u64;
        if length > route.most_stored() {
            place.take().into_iter().for_each(Place::too_long);
        }
        if let Some(place) = &mut place {
            place.push(&data);
        }
        if keeps {
            let all = held.add(data.len());
            if place.is_none() || length > most_kept || all > most_at_once {
                // Nobody else joins; what they have read is let go of.
                keeps = false;
                drop(lead.take());
                held.give_back();
                growing.pass_on();
            }
        }
        if !keeps {
            place = place.and_then(Place::without_memory);
        }
        growing.push(data);
        // Where nobody reads any more it may still be stored.
        if !keeps && !poll_fn(|cx| growing.poll_room(cx)).await && place.is_none() {
            return;
        }
    }
    if let Some(place) = place {
        // Before anybody is told that it is whole: the next request finds it.
        place.store(length, keeps.then(|| growing.whole()));
    }
    growing.end(Ok(()));
    drop(lead);
}

/// For those who share it, and for nobody else.
async fn pass_on(growing: &Growing, body: &mut Body) {
    growing.pass_on();
    while poll_fn(|cx| growing.poll_room(cx)).await {
        match body.frame().await {
            None => return growing.end(Ok(())),
            Some(Ok(frame)) => frame.into_data().into_iter().for_each(|data| growing.push(data)),
            Some(Err(error)) => return growing.end(Err(kind_of(error.as_ref()))),
        }
    }
}

fn kind_of(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Kind {
    cause_of::<Error>(error).map_or(Kind::ResponseIncomplete, Error::kind)
}

/// What is held of a body that is not stored yet.
struct Held<'c> {
    filling: &'c AtomicUsize,
    bytes: usize,
}

impl Held<'_> {
    /// What is held with it of all.
    fn add(&mut self, bytes: usize) -> usize {
        self.bytes += bytes;
        self.filling.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    fn give_back(&mut self) {
        self.filling.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}
