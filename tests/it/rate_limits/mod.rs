//! Rate limits, against a running proxy.

mod shared;
