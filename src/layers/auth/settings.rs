//! What authentication is told.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::address::Addresses;
use super::api_key::ApiKeys;
use super::authenticate::Authenticate;
use crate::layers::ApiKeySettings;
use crate::observe::Metrics;
use crate::pace::Quota;
#[cfg(feature = "redis")]
use crate::redis::Redis;

/// A way of telling who asks, under a name by which routes ask for it.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthenticatorSettings {
    /// Its name, unique.
    pub name: String,
    /// How it tells.
    pub scheme: SchemeSettings,
}

/// The schemes that there are.
#[derive(Clone, Debug, PartialEq)]
pub enum SchemeSettings {
    /// Networks.
    Address(AddressSettings),
    /// Keys that requests carry.
    ApiKey(ApiKeySettings),
    /// A scheme of the host application's.
    Custom(CustomScheme),
}

/// A scheme of the host application's. Two are equal if they are one.
#[derive(Clone)]
pub struct CustomScheme(Arc<dyn Authenticate>);

/// What a proxy has that schemes may need.
#[derive(Clone, Debug, Default)]
pub struct AuthMeans {
    /// What is counted.
    pub metrics: Metrics,
    /// The Redis that instances share, if there is one.
    #[cfg(feature = "redis")]
    pub redis: Option<Redis>,
}

/// Who is let in on a route, by the names of [`AuthenticatorSettings`].
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSettings {
    /// All of these have to let a request in. They are asked first, in this order.
    pub all: Vec<String>,
    /// One of these has to, if there are any. They are asked in this order.
    pub any: Vec<String>,
    /// Scopes that whoever asks must have, all of them.
    pub scopes: Vec<String>,
    /// How often an address may have wrong credentials before nobody listens to it for a
    /// while; `None`: as often as it likes. Default [`AuthSettings::FAILURES`].
    pub failures: Option<Quota>,
}

/// Networks that are let in, and networks that are not. Of two that have an address, the
/// more specific one has the say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressSettings {
    /// Let in. If there are none, everybody is who is not kept out.
    pub allow: Vec<IpNet>,
    /// Kept out.
    pub deny: Vec<IpNet>,
}

impl SchemeSettings {
    /// Makes the scheme.
    ///
    /// # Errors
    ///
    /// What it needs and is not there, in a sentence.
    pub fn build(&self, _means: &AuthMeans) -> Result<Arc<dyn Authenticate>, String> {
        Ok(match self {
            Self::Address(settings) => Arc::new(Addresses::new(settings)),
            Self::ApiKey(settings) => Arc::new(ApiKeys::new(settings)),
            Self::Custom(CustomScheme(scheme)) => scheme.clone(),
        })
    }
}

impl AuthSettings {
    /// Twenty at once, and then one in three seconds: enough for people who mistype, and
    /// for a program with an old key to be noticed by.
    pub const FAILURES: Quota = Quota {
        requests: NonZeroU32::MIN.saturating_add(19),
        per: Duration::from_secs(60),
        burst: NonZeroU32::MIN.saturating_add(19),
    };

    /// Lets in whom any of these lets in.
    #[must_use]
    pub fn any<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self { any: names.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Lets in whom all of these let in.
    #[must_use]
    pub fn all<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self { all: names.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The names of all that are asked.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.all.iter().chain(&self.any)
    }
}

impl Default for AuthSettings {
    fn default() -> Self {
        let (all, any, scopes) = (Vec::new(), Vec::new(), Vec::new());
        Self { all, any, scopes, failures: Some(Self::FAILURES) }
    }
}

impl CustomScheme {
    /// This one.
    #[must_use]
    pub fn new(scheme: impl Authenticate + 'static) -> Self {
        Self(Arc::new(scheme))
    }
}

impl PartialEq for CustomScheme {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for CustomScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
