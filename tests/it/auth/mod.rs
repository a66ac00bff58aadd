//! Who may come in: schemes, and what routes make of several.

mod address;
mod api_key;
mod basic;
mod combined;
mod forward;
mod forward_remembered;
#[cfg(feature = "jwt")]
mod jwt;
mod mtls;
#[cfg(feature = "jwt")]
mod oidc;
mod preflights;
mod signature;

use crate::support::proxy::Setup;

/// The digest of `k1`.
const K1: &str = "sha256:6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0";

/// One upstream, these `[[auth]]`, and a route to it with these lines.
fn guarded(origin: impl std::fmt::Display, auth: &str, route: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n{auth}\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n{route}\n"
    ))
}
