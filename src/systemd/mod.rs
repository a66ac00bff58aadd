//! What systemd and other service managers of its kind agree on with a service:
//! sockets that they open for it (`sd_listen_fds(3)`), notices of what it does
//! (`sd_notify(3)`), and signs of life (`sd_watchdog_enabled(3)`).
//!
//! Where there is no such manager, nothing happens.

mod notify;
mod sockets;
mod watchdog;

pub use notify::Notifier;
pub use sockets::inherited;
pub use watchdog::watchdog;
