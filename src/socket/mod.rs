//! Connections, as both sides of the proxy use them: TCP and Unix sockets.

mod stream;
mod turn;

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

pub use stream::{Stream, Unpolled};
pub use turn::{EndOfTurns, Socket, end_of_turns};

/// Silence after which the system asks whether the other side is still there,
/// and how often it asks again.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// Sends small writes at once, since a proxy's are whole messages, and has the
/// system end a connection whose other side has gone without a word (RFC 9293
/// §3.8.4). What a listening socket is told holds for those it accepts.
///
/// # Errors
///
/// The system refused an option. The connection works without them.
pub fn tune<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive)
}
