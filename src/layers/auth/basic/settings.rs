//! What Basic authentication is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::PasswordHash;

/// Authentication by name and password (RFC 7617).
#[derive(Clone, Debug, PartialEq)]
pub struct BasicSettings {
    /// What the users are told that they log in to. Default `tollgate`.
    pub realm: Arc<str>,
    /// The file that users were read from, as far as they were. Default none.
    pub file: Option<PathBuf>,
    /// Who may come in, those of the file among them. Of two by the same name the first
    /// counts.
    pub users: Arc<[BasicUser]>,
    /// For how long a password that was right is not hashed again. Default 5 min; zero:
    /// it is hashed each time.
    pub cache: Duration,
    /// Tells the origin the user's name in this field. Default none.
    pub identity_header: Option<HeaderName>,
    /// Tells the origin the user's scopes in this field, with spaces between. Default none.
    pub scopes_header: Option<HeaderName>,
    /// Whether the origin sees the `Authorization` field. Default false.
    pub forward_credentials: bool,
}

/// Somebody with a password.
#[derive(Clone, Debug, PartialEq)]
pub struct BasicUser {
    /// The name: no colon and no control characters, up to 255 bytes.
    pub name: Arc<str>,
    /// The hash of the password.
    pub password: PasswordHash,
    /// What the user may do.
    pub scopes: Box<[Box<str>]>,
}

impl BasicSettings {
    /// These users, and every default.
    #[must_use]
    pub fn new(users: impl IntoIterator<Item = BasicUser>) -> Self {
        Self {
            realm: "tollgate".into(),
            file: None,
            users: users.into_iter().collect(),
            cache: Duration::from_secs(5 * 60),
            identity_header: None,
            scopes_header: None,
            forward_credentials: false,
        }
    }
}
