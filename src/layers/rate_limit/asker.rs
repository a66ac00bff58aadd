//! Who asks: what of a request it can be counted by.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Request};
use serde_json::Value;

use crate::context::{Downstream, Exchange, Identity};
use crate::pace::Quota;

/// Who asks.
#[derive(Debug)]
pub(in crate::layers) struct Asker<'a> {
    headers: &'a HeaderMap,
    exchange: Option<&'a Exchange>,
    client: Option<IpAddr>,
    identity: OnceCell<Option<Known>>,
}

/// An identity, and the authenticator that has told it.
type Known = (Arc<Identity>, Option<Arc<str>>);

impl<'a> Asker<'a> {
    /// Who has sent this request.
    pub(in crate::layers) fn of<B>(request: &'a Request<B>) -> Self {
        let exchange = request.extensions().get::<Exchange>();
        let client = match exchange {
            Some(exchange) => exchange.client(),
            None => request
                .extensions()
                .get::<Arc<Downstream>>()
                .and_then(|downstream| downstream.peer_address()),
        };
        Self { headers: request.headers(), exchange, client, identity: OnceCell::new() }
    }

    /// The address of the client.
    pub(in crate::layers) fn client(&self) -> Option<IpAddr> {
        self.client
    }

    pub(super) fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The record of the exchange.
    pub(in crate::layers) fn exchange(&self) -> Option<&'a Exchange> {
        self.exchange
    }

    fn known(&self) -> Option<&Known> {
        let read = || {
            self.exchange?
                .read(|record| Some((record.identity.clone()?, record.authenticator.clone())))
        };
        self.identity.get_or_init(read).as_ref()
    }

    fn identity(&self) -> Option<&Identity> {
        self.known().map(|(identity, _)| &**identity)
    }

    /// The name of the identity, with the authenticator that vouches for it: of the same name
    /// there may be strangers elsewhere.
    pub(super) fn identity_bytes(&self) -> Option<Vec<u8>> {
        let name = self.identity()?.name.clone();
        Some(self.vouched(name.as_bytes()))
    }

    /// What an authenticator vouches for, told from what another does.
    fn vouched(&self, what: &[u8]) -> Vec<u8> {
        let by = match self.known() {
            Some((_, Some(authenticator))) => authenticator.as_bytes(),
            Some((identity, None)) => identity.scheme.as_bytes(),
            None => b"",
        };
        [by, b"\0", what].concat()
    }

    /// What a claim of the identity says; a list or an object as JSON.
    pub(super) fn claim_bytes(&self, name: &str) -> Option<Vec<u8>> {
        match self.identity()?.claims.get(name)? {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(self.vouched(text.as_bytes())),
            other => Some(self.vouched(other.to_string().as_bytes())),
        }
    }

    /// How often the identity may ask, where that is its own affair.
    pub(super) fn own_quota(&self) -> Option<Quota> {
        self.identity()?.quota
    }
}
