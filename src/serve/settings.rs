//! What one connection from a client is held to.

use std::time::Duration;

use crate::context::HeadLimits;
use crate::pace::MinRate;

/// Protocols, limits and timeouts of a listener's connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServeSettings {
    /// Serve HTTP/1.1. Default true.
    pub http1: bool,
    /// Serve HTTP/2: by ALPN over TLS, by prior knowledge on a plain
    /// connection (RFC 9113 §3). Default true.
    pub http2: bool,
    /// From the first chance to send until a request's head is whole; over
    /// HTTP/2 until the first one is. Default 10 s.
    pub request_head_timeout: Duration,
    /// How long a connection may stay open without a request. Default 75 s.
    pub keep_alive_timeout: Duration,
    /// How long a write to a client that takes nothing may hang. Default 60 s.
    pub send_timeout: Duration,
    /// The slowest that a client may take a response while it is waited for.
    /// Default [`MinRate::DEFAULT`].
    pub min_response_rate: Option<MinRate>,
    /// The longest request head, in bytes. Default 64 KiB.
    pub max_request_head: usize,
    /// What a request's head is held to beside its length.
    pub head: HeadLimits,
    /// HTTP/2's own limits.
    pub h2: H2Settings,
}

/// Limits of an HTTP/2 connection (RFC 9113).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct H2Settings {
    /// Streams open at once. Default 128.
    pub max_concurrent_streams: u32,
    /// Flow-control window of a stream, in bytes. Default 64 KiB.
    pub stream_window: u32,
    /// Flow-control window of the connection, in bytes. Default 1 MiB.
    pub connection_window: u32,
    /// The longest payload of a frame that a client may send, in bytes, from 16
    /// KiB to 16 MiB − 1 (RFC 9113 §4.2). Default 16 KiB.
    pub max_frame_size: u32,
    /// The longest list of fields, in bytes, counted as RFC 9113 §6.5.2 does: 32
    /// for each field beside its name and value. A longer one is answered 431;
    /// one four times as long ends the connection. Default
    /// [`ServeSettings::max_request_head`].
    pub max_header_list: Option<u32>,
    /// How much of a response is held for a stream that the client does not
    /// read, in bytes. Default 64 KiB.
    pub send_buffer: u32,
    /// Requests that a client may reset at once, over what it completes and
    /// ten each second. Default 500.
    pub max_resets: u32,
    /// Requests that a client may reset before they were looked at, waiting at
    /// once. Default 20.
    pub max_pending_resets: usize,
    /// Streams of one connection that were reset for what the client did wrong,
    /// over its whole life. Default 256.
    pub max_error_resets: usize,
    /// Frames that carry nothing (PING, SETTINGS, PRIORITY, `WINDOW_UPDATE` and
    /// unknown ones) at once, over what requests and responses earn and ten each
    /// second. Default 1,000.
    pub max_control_frames: u32,
    /// How often to ping a client, and how long its answer may take. Default
    /// 30 s and 10 s.
    pub ping_interval: Duration,
    /// See [`H2Settings::ping_interval`].
    pub ping_timeout: Duration,
    /// Offer the extended CONNECT (RFC 8441), by which a client opens a WebSocket
    /// on one stream. Default true.
    pub extended_connect: bool,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            http1: true,
            http2: true,
            request_head_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            send_timeout: Duration::from_secs(60),
            min_response_rate: Some(MinRate::DEFAULT),
            max_request_head: 64 * 1024,
            head: HeadLimits::default(),
            h2: H2Settings::default(),
        }
    }
}

impl Default for H2Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 128,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            max_frame_size: 16 * 1024,
            max_header_list: None,
            send_buffer: 64 * 1024,
            max_resets: 500,
            max_pending_resets: 20,
            max_error_resets: 256,
            max_control_frames: 1000,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            extended_connect: true,
        }
    }
}
