//! What a hostile or unusual peer may put on the wire, sent to a running proxy
//! in front of origins that record exactly what reaches them.

mod interim;
mod memory;
mod rates;
