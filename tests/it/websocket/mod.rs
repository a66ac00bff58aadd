//! WebSocket over HTTP/1.1 and HTTP/2.

mod drain;
mod extended_connect;
mod handshake;
mod load;
mod messages;
