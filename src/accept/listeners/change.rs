//! From the listeners that are to those that should be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::{Inner, Listeners, Named, Shared, State};
use crate::accept::bind::Terms;
use crate::accept::rounds::Acceptors;
use crate::accept::{Acceptor, BindError, Inherited, ListenAddress, ListenerSettings};
use crate::tls::TlsAcceptor;

/// For how many milliseconds a last call is waited for, which takes a moment.
const LAST_CALL: u32 = 500;

/// A change of the listeners that can be made: everything new is bound. Dropped,
/// it leaves all as it was.
#[derive(Debug)]
#[must_use = "it takes effect with `Listeners::commit`"]
pub struct Change {
    listeners: Vec<Named>,
    /// What each address is to follow, in the order of the listeners.
    terms: Vec<(Arc<Gate>, Terms)>,
    table: Acceptors,
}

impl Listeners {
    /// Binds what is new in these settings, and touches nothing else. `tls` has one
    /// for each listener. One change is to be committed or dropped before the next
    /// is prepared.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound. Nothing has changed then.
    pub fn prepare(
        &self,
        settings: &[ListenerSettings],
        tls: Vec<Option<TlsAcceptor>>,
    ) -> Result<Change, BindError> {
        self.prepare_with(settings, tls, &mut Inherited::default())
    }

    pub(super) fn prepare_with(
        &self,
        settings: &[ListenerSettings],
        tls: Vec<Option<TlsAcceptor>>,
        inherited: &mut Inherited,
    ) -> Result<Change, BindError> {
        let Inner { shared, state, .. } = &*self.0;
        let mut state = state.lock();
        state.leaving.retain(|gate| gate.is_open());
        let mut kept = kept(&state, settings);
        let mut stay: Vec<_> = kept.iter().flatten().flatten().cloned().collect();
        let mut change =
            Change { listeners: Vec::new(), terms: Vec::new(), table: Acceptors::new() };
        for (index, (settings, tls)) in settings.iter().zip(tls).enumerate() {
            let Shared { permits, metrics, workers, .. } = shared;
            let acceptor = Arc::new(Acceptor::new(settings, tls, permits.clone(), metrics.clone()));
            let terms = Terms::new(settings, *workers);
            let mut named =
                Named { name: settings.name.clone(), gates: Vec::new(), addresses: Vec::new() };
            for (place, address) in settings.addresses.iter().enumerate() {
                let gate = match kept[index][place].take() {
                    Some(gate) => gate,
                    None => {
                        let given = inherited.addresses().any(|given| given == address);
                        let bound = if given { Ok(()) } else { apart(address, &stay) };
                        let bound =
                            bound.and_then(|()| state.bind(address, terms, shared, inherited));
                        let gate = Arc::new(bound.map_err(|cause| BindError {
                            listener: settings.name.clone(),
                            address: address.clone(),
                            cause,
                        })?);
                        stay.push(gate.clone());
                        gate
                    }
                };
                change.table.insert(gate.id, acceptor.clone());
                change.terms.push((gate.clone(), terms));
                named.addresses.push(gate.bound.clone());
                named.gates.push(gate);
            }
            change.listeners.push(named);
        }
        Ok(change)
    }

    /// Makes a change that was prepared. From now on connections are treated as the
    /// new settings say; those that are open keep what they have. An address that
    /// was removed takes what has come to it already; its connections end once they
    /// have answered what is under way, and are not cut; its tunnels go on.
    pub fn commit(&self, change: Change) {
        let Change { listeners, terms, table } = change;
        let Inner { table: current, state, released, .. } = &*self.0;
        let mut state = state.lock();
        let before = std::mem::replace(&mut state.listeners, listeners);
        let stays = |gate: &Arc<Gate>| table.contains_key(&gate.id);
        let gone: Vec<_> =
            before.into_iter().flat_map(|named| named.gates).filter(|gate| !stays(gate)).collect();
        current.store(Arc::new(table));
        for (gate, terms) in terms {
            gate.follow(terms);
            if state.open {
                gate.start(&state.posts, current, released);
            }
        }
        gone.iter().for_each(|gate| gate.end());
        state.leaving.extend(gone);
    }
}

impl State {
    fn bind(
        &mut self,
        address: &ListenAddress,
        terms: Terms,
        shared: &Shared,
        inherited: &mut Inherited,
    ) -> std::io::Result<Gate> {
        self.wait_for_last_call(address);
        let opened = terms.open(address, inherited, |address| {
            let there = self.gates().chain(&self.leaving).map(|gate| &gate.bound);
            there.into_iter().any(|bound| overlap(bound, address))
        })?;
        self.last_id += 1;
        let branch = shared.drain.branch();
        let gate = Gate::new(self.last_id, address.clone(), opened, terms, branch);
        gate.attach(&self.posts, self.open)?;
        Ok(gate)
    }

    /// What comes to an address that is bound again could still come to a socket
    /// that is about to be closed, and be lost with it.
    fn wait_for_last_call(&mut self, address: &ListenAddress) {
        let ListenAddress::Tcp(address) = *address else { return };
        let leaves = |gate: &Arc<Gate>| overlap(&gate.bound, address) && gate.is_open();
        for _ in 0..LAST_CALL {
            if !self.leaving.iter().any(leaves) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.leaving.retain(|gate| gate.is_open());
    }
}

/// For each address of each listener what is bound there already: by the listener
/// of the same name, or else by any.
fn kept(state: &State, settings: &[ListenerSettings]) -> Vec<Vec<Option<Arc<Gate>>>> {
    let mut there: Vec<(&str, Option<&Arc<Gate>>)> = Vec::new();
    for named in &state.listeners {
        there.extend(named.gates.iter().map(|gate| (named.name.as_str(), Some(gate))));
    }
    let mut take = |address: &ListenAddress, name: Option<&str>| {
        there.iter_mut().find_map(|(of, slot)| {
            let fits = name.is_none_or(|name| name == *of);
            let gate = slot.filter(|gate| fits && gate.asked == *address)?;
            *slot = None;
            Some(gate.clone())
        })
    };
    let mut kept: Vec<Vec<_>> = settings
        .iter()
        .map(|settings| {
            let of_name = |address| take(address, Some(&settings.name));
            settings.addresses.iter().map(of_name).collect()
        })
        .collect();
    for (settings, kept) in settings.iter().zip(&mut kept) {
        for (address, kept) in settings.addresses.iter().zip(kept) {
            if kept.is_none() {
                *kept = take(address, None);
            }
        }
    }
    kept
}

/// Says no to an address that overlaps with another that is going to be bound beside
/// it: the system lets this process have both, but not the next one.
fn apart(address: &ListenAddress, stay: &[Arc<Gate>]) -> std::io::Result<()> {
    let ListenAddress::Tcp(address) = *address else { return Ok(()) };
    let near = |gate: &&Arc<Gate>| address.port() != 0 && overlap(&gate.bound, address);
    let Some(other) = stay.iter().find(near) else { return Ok(()) };
    let message = format!("it overlaps with {}, which is listened on already", other.bound);
    Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, message))
}

/// Whether what is bound to the one keeps others from the other, unless they share.
fn overlap(bound: &ListenAddress, address: SocketAddr) -> bool {
    let ListenAddress::Tcp(bound) = bound else { return false };
    let any = bound.ip().is_unspecified() || address.ip().is_unspecified();
    bound.port() == address.port()
        && bound.is_ipv4() == address.is_ipv4()
        && (any || bound.ip() == address.ip())
}
