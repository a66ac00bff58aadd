//! Codes are exchanged once, and not too many at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::pending::WITHIN;
use super::session::Session;
use crate::layers::auth::flights::Flights;

/// So many codes are exchanged at once.
const MOST: usize = 16;

/// So many logins that have ended are remembered: of more nobody can tell but the provider,
/// which does not take a code twice either.
const MOST_ENDED: usize = 1024;

/// How long somebody may take to come again who went away before the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a login has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Session(Session),
    /// It is over: 401.
    Refused(&'static str),
    /// It is over: 403.
    Forbidden(&'static str),
    /// It is over, and could not be told: 503.
    Failed(&'static str),
    /// Nothing was asked of the provider: the same may be tried again.
    Unavailable(&'static str),
}

/// What is exchanged, and what has been, by the state of the login.
#[derive(Debug)]
pub(super) struct Exchanges {
    flights: Flights<String, End>,
    ended: Arc<Mutex<VecDeque<Ended>>>,
}

#[derive(Debug)]
struct Ended {
    state: String,
    at: Instant,
    /// Until somebody has heard of it.
    end: Option<End>,
}

impl Exchanges {
    pub(super) fn new() -> Self {
        Self { flights: Flights::up_to(MOST), ended: Arc::default() }
    }

    /// How the login of this state ends, by `begin` if that is not known. It goes on to its
    /// end though nobody waits for it any more; whoever comes back soon hears of it.
    pub(super) async fn once<F>(
        &self,
        state: &str,
        begin: impl FnOnce() -> F + Send + 'static,
    ) -> End
    where
        F: Future<Output = End> + Send + 'static,
    {
        let (ended, key) = (self.ended.clone(), state.to_owned());
        let flight = async move {
            if let Some(known) = known(&ended, &key) {
                return known;
            }
            let end = begin().await;
            if !matches!(end, End::Unavailable(_)) {
                remember(&ended, key, end.clone());
            }
            end
        };
        let Some(end) = self.flights.fetch(state.to_owned(), || Some(flight)).await else {
            return End::Unavailable("oidc_busy");
        };
        if let Some(heard) = self.ended.lock().iter_mut().find(|one| one.state == state) {
            heard.end = None;
        }
        end
    }
}

fn known(ended: &Mutex<VecDeque<Ended>>, state: &str) -> Option<End> {
    let ended = ended.lock();
    let found = ended.iter().find(|one| one.state == state && one.at.elapsed() < WITHIN)?;
    let fresh = found.end.clone().filter(|_| found.at.elapsed() < PATIENCE);
    Some(fresh.unwrap_or(End::Refused("oidc_no_login")))
}

fn remember(ended: &Mutex<VecDeque<Ended>>, state: String, end: End) {
    let mut ended = ended.lock();
    while ended.len() >= MOST_ENDED || ended.front().is_some_and(|one| one.at.elapsed() >= WITHIN) {
        ended.pop_front();
    }
    ended.push_back(Ended { state, at: Instant::now(), end: Some(end) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_login_ends_once_and_somebody_hears_of_it() {
        let exchanges = Exchanges::new();
        let end = |word| move || async move { End::Refused(word) };
        assert_eq!(exchanges.once("a", end("a")).await, End::Refused("a"));
        assert_eq!(exchanges.once("a", end("again")).await, End::Refused("oidc_no_login"));
        assert_eq!(exchanges.once("b", end("b")).await, End::Refused("b"));
        // Where nothing was asked, it may be.
        let nothing = || async { End::Unavailable("c") };
        assert_eq!(exchanges.once("c", nothing).await, End::Unavailable("c"));
        assert_eq!(exchanges.once("c", end("c")).await, End::Refused("c"));
    }

    #[tokio::test]
    async fn who_went_away_before_the_end_hears_of_it_on_coming_back() {
        let exchanges = Exchanges::new();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let begin = || async move {
            assert!(released.await.is_ok());
            End::Refused("first")
        };
        tokio::select! {
            biased;
            end = exchanges.once("a", begin) => unreachable!("{end:?}"),
            () = tokio::task::yield_now() => {}
        }
        release.send(()).unwrap();
        while exchanges.ended.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = || async { End::Refused("second") };
        assert_eq!(exchanges.once("a", second).await, End::Refused("first"));
        assert_eq!(exchanges.once("a", second).await, End::Refused("oidc_no_login"));
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let ended = Mutex::default();
        for number in 0..MOST_ENDED + 3 {
            remember(&ended, number.to_string(), End::Refused("a"));
        }
        assert_eq!(ended.lock().len(), MOST_ENDED);
        assert_eq!(known(&ended, "2"), None);
        assert_eq!(known(&ended, "3"), Some(End::Refused("a")));
    }
}
