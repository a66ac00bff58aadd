//! What a limit says of a request.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

/// Whether a request may pass, and how its key stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::layers) struct Decision {
    /// Whether it may pass.
    pub(in crate::layers) admitted: bool,
    /// How many more would pass now.
    pub(in crate::layers) remaining: u32,
    /// After how long it would pass; zero if it does.
    pub(in crate::layers) wait: Duration,
    /// After how long as many would pass as ever do at once.
    pub(in crate::layers) reset: Duration,
    /// Whether it was counted: where others count too and nobody answers, it may be decided
    /// without.
    pub(in crate::layers) counted: bool,
}

impl Decision {
    /// It may pass, and nobody has counted it.
    pub(super) const PASS: Self = Self {
        admitted: true,
        remaining: 0,
        wait: Duration::ZERO,
        reset: Duration::ZERO,
        counted: false,
    };
}

/// A decision, now or in a moment.
pub(super) enum Checked {
    /// It is known.
    Now(Decision),
    /// Somebody is asked for it.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "nobody else counts then"))]
    Later(Deciding),
}

/// A decision that is waited for.
pub(super) type Deciding = Pin<Box<dyn Future<Output = Decision> + Send>>;

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(decision) => decision.fmt(f),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

#[cfg(feature = "redis")]
mod shared {
    use super::super::shared;
    use super::{Checked, Decision};

    impl From<shared::Decision> for Decision {
        fn from(decision: shared::Decision) -> Self {
            use shared::DecidedBy::{FailedClosed, FailedOpen};
            let shared::Decision { admitted, remaining, wait, reset, by } = decision;
            let counted = !matches!(by, FailedClosed | FailedOpen);
            Self { admitted, remaining, wait, reset, counted }
        }
    }

    impl From<shared::Checked> for Checked {
        fn from(checked: shared::Checked) -> Self {
            match checked {
                shared::Checked::Now(decision) => Self::Now(decision.into()),
                shared::Checked::Later(deciding) => {
                    Self::Later(Box::pin(async { deciding.await.into() }))
                }
            }
        }
    }
}
