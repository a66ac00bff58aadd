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
    identity: OnceCell<Option<Arc<Identity>>>,
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

    fn identity(&self) -> Option<&Identity> {
        let read = || self.exchange?.read(|record| record.identity.clone());
        self.identity.get_or_init(read).as_deref()
    }

    /// The name of the identity, with the scheme that vouches for it: of the same name there
    /// may be strangers elsewhere.
    pub(super) fn identity_bytes(&self) -> Option<Vec<u8>> {
        let Identity { name, scheme, .. } = self.identity()?;
        Some([scheme.as_bytes(), b"\0", name.as_bytes()].concat())
    }

    /// What a claim of the identity says; a list or an object as JSON.
    pub(super) fn claim_bytes(&self, name: &str) -> Option<Vec<u8>> {
        match self.identity()?.claims.get(name)? {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(text.as_bytes().to_vec()),
            other => Some(other.to_string().into_bytes()),
        }
    }

    /// How often the identity may ask, where that is its own affair.
    pub(super) fn own_quota(&self) -> Option<Quota> {
        self.identity()?.quota
    }
}
