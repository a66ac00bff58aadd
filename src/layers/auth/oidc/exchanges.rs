//! Codes are exchanged once, and not too many at a time.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::pending::WITHIN;
use super::session::Session;
use crate::layers::auth::flights::Flights;
use crate::layers::auth::shares::Shares;

/// So many codes are exchanged at once.
const MOST: usize = 64;

/// So many of these for one address: anybody can begin a login and come back with a code that
/// they have made up.
const MOST_EACH: usize = 8;

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
    /// It is over: 401. Whoever came back has made up what they brought along.
    Guessed(&'static str),
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
    shares: Shares,
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
        Self {
            flights: Flights::up_to(MOST),
            shares: Shares::up_to(MOST_EACH),
            ended: Arc::default(),
        }
    }

    /// How the login of this state ends that `client` comes back from, by `begin` if that is
    /// not known. It goes on to its end though nobody waits for it any more; whoever comes
    /// back soon hears of it.
    pub(super) async fn once<F>(
        &self,
        state: &str,
        client: Option<IpAddr>,
        begin: impl FnOnce() -> F + Send + 'static,
    ) -> End
    where
        F: Future<Output = End> + Send + 'static,
    {
        let flight = || {
            let share = self.shares.take(client)?;
            let (ended, key) = (self.ended.clone(), state.to_owned());
            Some(async move {
                let _until_its_end = share;
                if let Some(known) = known(&ended, &key) {
                    return known;
                }
                let end = begin().await;
                if !matches!(end, End::Unavailable(_)) {
                    remember(&ended, key, end.clone());
                }
                end
            })
        };
        let Some(end) = self.flights.fetch(state.to_owned(), flight).await else {
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
        assert_eq!(exchanges.once("a", None, end("a")).await, End::Refused("a"));
        assert_eq!(exchanges.once("a", None, end("again")).await, End::Refused("oidc_no_login"));
        assert_eq!(exchanges.once("b", None, end("b")).await, End::Refused("b"));
        // Where nothing was asked, it may be.
        let nothing = || async { End::Unavailable("c") };
        assert_eq!(exchanges.once("c", None, nothing).await, End::Unavailable("c"));
        assert_eq!(exchanges.once("c", None, end("c")).await, End::Refused("c"));
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
            end = exchanges.once("a", None, begin) => unreachable!("{end:?}"),
            () = tokio::task::yield_now() => {}
        }
        release.send(()).unwrap();
        while exchanges.ended.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = || async { End::Refused("second") };
        assert_eq!(exchanges.once("a", None, second).await, End::Refused("first"));
        assert_eq!(exchanges.once("a", None, second).await, End::Refused("oidc_no_login"));
    }

    #[tokio::test]
    async fn an_address_has_its_share_and_all_together_have_no_more_than_the_most() {
        let exchanges = Arc::new(Exchanges::new());
        let waiting = |client: u8, number: usize| {
            let (exchanges, state) = (exchanges.clone(), format!("{client}-{number}"));
            async move {
                let client = Some([192, 0, 2, client].into());
                let once = exchanges.once(&state, client, std::future::pending);
                // Whoever is turned away is so at once.
                tokio::select! {
                    biased;
                    end = once => Some(end),
                    () = tokio::task::yield_now() => None,
                }
            }
        };
        let busy = Some(End::Unavailable("oidc_busy"));
        for client in 0..8 {
            for number in 0..MOST_EACH {
                assert_eq!(waiting(client, number).await, None, "{client} {number}");
            }
            assert_eq!(waiting(client, MOST_EACH).await, busy, "{client}");
            // Who waits for what is under way takes nothing.
            assert_eq!(waiting(client, 0).await, None, "{client}");
        }
        assert_eq!(8 * MOST_EACH, MOST);
        assert_eq!(waiting(8, 0).await, busy);
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
