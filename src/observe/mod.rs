//! What can be seen from outside: the access log, metrics.

mod access_log;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod line;
mod memory;
mod metrics;
mod origins;
mod routes;
mod settings;
mod workers;

pub use access_log::AccessLog;
pub use metrics::{ConnectionGauge, ListenerConnections, Metrics};
pub use origins::NameCounts;
pub use settings::{AccessLogFormat, AccessLogSettings, LogOutput};
pub use workers::{OpenOnWorker, WorkerConnections};
