//! What a connection may have to hold in memory, by what it speaks. The figures
//! are the most that a peer can make it hold, as far as its own limits say.

use super::H2Settings;
use crate::context::Buffers;

/// Records of a TLS session that the socket has not taken: rustls holds back what
/// comes after that.
const TLS_OUT: usize = 64 * 1024;

/// The buffers of HTTP/2's codec, the tables of its field compression in both
/// directions, and its lists of streams.
const HTTP2: usize = 64 * 1024;

/// What a connection of HTTP/2 needs beyond one of HTTP/1.
pub(super) fn http2_connection(tls: bool) -> usize {
    HTTP2 + if tls { TLS_OUT } else { 0 }
}

/// What an exchange needs beyond what every exchange does. One of HTTP/1 reads no
/// more of a request than is taken, and has the connection to itself.
pub(super) fn buffers(http2: bool, tls: bool, h2: &H2Settings) -> Buffers {
    match (http2, tls) {
        (true, _) => {
            Buffers { request: h2.stream_window as usize, response: h2.send_buffer as usize }
        }
        (false, true) => Buffers { request: 0, response: TLS_OUT },
        (false, false) => Buffers::default(),
    }
}
