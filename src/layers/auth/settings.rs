//! What authentication is told.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::address::Addresses;
use super::api_key::{ApiKeySettings, ApiKeys};
use super::authenticate::Authenticate;
use super::basic::{Basic, BasicSettings};
use super::forward::{ForwardAuth, ForwardAuthSettings};
#[cfg(feature = "jwt")]
use super::jwt::JsonWebTokens;
use super::jwt::{JwtKeys, JwtSettings};
use super::mtls::{Mtls, MtlsSettings};
use super::oidc::OidcSettings;
#[cfg(feature = "jwt")]
use super::oidc::OpenIdConnect;
use super::signature::{SignatureSettings, Signatures};
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
    /// Names and passwords.
    Basic(BasicSettings),
    /// Another service, which decides.
    Forward(Box<ForwardAuthSettings>),
    /// JSON Web Tokens that requests carry. Needs the feature `jwt`.
    Jwt(Box<JwtSettings>),
    /// A login at an identity provider. Needs the feature `jwt`.
    Oidc(Box<OidcSettings>),
    /// Certificates that connections are made with.
    Mtls(MtlsSettings),
    /// Signatures of requests.
    Signature(SignatureSettings),
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
    /// The bundle of certificates that it reads when it is made.
    #[must_use]
    pub fn ca(&self) -> Option<&Path> {
        match self {
            Self::Jwt(settings) => match &settings.keys {
                JwtKeys::Jwks(jwks) => jwks.ca.as_deref(),
                JwtKeys::PublicKey(_) | JwtKeys::Secret(_) => None,
            },
            Self::Oidc(settings) => settings.ca.as_deref(),
            Self::Forward(settings) => settings.ca.as_deref(),
            Self::Address(_)
            | Self::ApiKey(_)
            | Self::Basic(_)
            | Self::Signature(_)
            | Self::Mtls(_)
            | Self::Custom(_) => None,
        }
    }

    /// Makes the scheme.
    ///
    /// # Errors
    ///
    /// What it needs and is not there, in a sentence.
    pub fn build(&self, means: &AuthMeans) -> Result<Arc<dyn Authenticate>, String> {
        self.build_after(None, means)
    }

    /// Makes the scheme in the place of `before`, which was told something else. What that
    /// has asked or worked out goes on, as far as it still holds: who was let in a moment ago
    /// does not wait behind all others for it to be done again.
    ///
    /// # Errors
    ///
    /// What it needs and is not there, in a sentence.
    pub fn build_after(
        &self,
        before: Option<&dyn Authenticate>,
        means: &AuthMeans,
    ) -> Result<Arc<dyn Authenticate>, String> {
        let before = before.map(|before| before as &dyn Any);
        Ok(match self {
            Self::Address(settings) => Arc::new(Addresses::new(settings)),
            Self::ApiKey(settings) => {
                let before = before.and_then(<dyn Any>::downcast_ref);
                Arc::new(ApiKeys::after(before, settings, means)?)
            }
            Self::Basic(settings) => {
                Arc::new(Basic::after(before.and_then(<dyn Any>::downcast_ref), settings))
            }
            Self::Forward(settings) => {
                Arc::new(ForwardAuth::new(settings).map_err(|error| error.to_string())?)
            }
            Self::Mtls(settings) => Arc::new(Mtls::new(settings)),
            Self::Signature(settings) => Arc::new(Signatures::new(settings)),
            #[cfg(feature = "jwt")]
            Self::Jwt(settings) => {
                Arc::new(JsonWebTokens::with(settings, means).map_err(|error| error.to_string())?)
            }
            #[cfg(feature = "jwt")]
            Self::Oidc(settings) => {
                let scheme = OpenIdConnect::with((**settings).clone(), means);
                Arc::new(scheme.map_err(|error| error.to_string())?)
            }
            #[cfg(not(feature = "jwt"))]
            Self::Jwt(_) | Self::Oidc(_) => {
                return Err("this Tollgate was built without `jwt`".to_owned());
            }
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
