//! What can be seen from outside: the access log, metrics.

mod access_log;
mod cache;
mod certificates;
mod compression;
mod fetches;
mod fleet;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod line;
mod log_level;
mod memory;
mod metrics;
mod origins;
mod rate_limits;
mod reloads;
mod routes;
mod settings;
mod shared_limits;
mod tasks;
mod workers;

pub use access_log::{AccessLog, Opened};
pub use cache::{CacheCounts, CacheDiskFigures, CacheLevel, CacheOutcome};
pub use certificates::CertificateReload;
pub use compression::{CompressionCounts, CompressionOutcome};
pub use fetches::FetchCounts;
pub use fleet::{Connected, FleetCounts, FleetLevel};
pub use log_level::{LogFilter, LogLevel, LogLevelSource, check_log_level};
pub use metrics::{ConnectionGauge, ListenerConnections, Metrics};
pub use origins::NameCounts;
pub use rate_limits::RateLimitCounts;
pub use reloads::{ReloadResult, ReloadTrigger};
pub use settings::{AccessLogFormat, AccessLogSettings, LogOutput};
pub use shared_limits::{SharedLimitCounts, SharedLimitError, SharedLimitOutcome};
pub use workers::{OpenOnWorker, WorkerConnections};
