//! What one client may have under way at once, so that it leaves something to the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::context::client_network;

/// Counts what is under way by the network of the client that began it. Clones count
/// together.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most_each: usize,
}

/// Counts until it is dropped.
#[derive(Debug)]
pub(super) struct Share(Option<(Shares, IpAddr)>);

impl Shares {
    /// Up to `most_each` at once for each network.
    pub(super) fn up_to(most_each: usize) -> Self {
        Self { taken: Arc::default(), most_each }
    }

    /// One more for this client; `None` if it has as many as it may. Whoever has no address
    /// is not counted.
    pub(super) fn take(&self, client: Option<IpAddr>) -> Option<Share> {
        let Some(network) = client.map(client_network) else { return Some(Share(None)) };
        let mut taken = self.taken.lock();
        let count = taken.entry(network).or_insert(0);
        if *count >= self.most_each {
            return None;
        }
        *count += 1;
        Some(Share(Some((self.clone(), network))))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((shares, network)) = &self.0 else { return };
        let mut taken = shares.taken.lock();
        if let Some(count) = taken.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                taken.remove(network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_share_and_gets_back_what_ends() {
        let shares = Shares::up_to(2);
        let take = |client: &str| shares.take(Some(client.parse().unwrap()));
        let (first, second) = (take("2001:db8::1"), take("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(take("2001:db8::3").is_none());
        let (other, without) = (take("2001:db8:0:1::1"), shares.take(None));
        assert!(other.is_some() && without.is_some());
        drop(first);
        let third = take("2001:db8::3");
        assert!(third.is_some() && take("2001:db8::1").is_none());
        drop((second, third, other, without));
        assert!(shares.taken.lock().is_empty());
    }
}
