//! What can be seen from outside: the access log, metrics.

mod access_log;
mod certificates;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod line;
mod memory;
mod metrics;
mod routes;
mod settings;
mod workers;

pub use access_log::AccessLog;
pub use certificates::CertificateReload;
pub use metrics::{ConnectionGauge, ListenerConnections, Metrics, NameCounts};
pub use settings::{AccessLogFormat, AccessLogSettings, LogOutput};
pub use workers::{OpenOnWorker, WorkerConnections};
