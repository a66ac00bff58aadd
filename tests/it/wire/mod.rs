//! What a hostile or unusual peer may put on the wire, sent to a running proxy
//! in front of origins that record exactly what reaches them.

mod bodiless;
mod chunks;
mod differential;
mod fields;
mod h2_floods;
mod h2_origin;
mod h2_requests;
mod h2_resets;
mod h2_windows;
mod heads;
mod hop_by_hop;
mod interim;
mod memory;
mod origin_answers;
mod paths;
mod pipelines;
mod proxy_protocol;
mod proxy_protocol_out;
mod rates;
mod server_names;
mod slow;
mod smuggling;
mod targets;
