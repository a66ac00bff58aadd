//! Who asks: what of a request it can be counted by.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Request};

use crate::context::{Downstream, Exchange};
use crate::pace::Quota;

/// Who asks.
#[derive(Debug)]
pub(in crate::layers) struct Asker<'a> {
    headers: &'a HeaderMap,
    exchange: Option<&'a Exchange>,
    client: Option<IpAddr>,
    identity: OnceCell<Option<Arc<str>>>,
}

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

    fn identity(&self) -> Option<&Arc<str>> {
        let read = || self.exchange?.read(|record| record.identity.clone());
        self.identity.get_or_init(read).as_ref()
    }

    /// The name of the identity.
    pub(super) fn identity_bytes(&self) -> Option<Vec<u8>> {
        self.identity().map(|name| name.as_bytes().to_vec())
    }

    /// What a claim of the identity says.
    pub(super) fn claim_bytes(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    /// How often the identity may ask, if it has a say in that.
    pub(super) fn own_quota(&self) -> Option<Quota> {
        None
    }
}
