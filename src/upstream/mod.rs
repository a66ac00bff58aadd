//! Groups of origins, and the connections to them.

mod settings;

pub use settings::{
    HealthCheck, OriginScheme, OriginSettings, OriginUrl, PassiveHealth, Probe, Protocol,
    StatusRange, UpstreamSettings, UpstreamTimeouts, UpstreamTls,
};
