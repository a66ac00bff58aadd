//! One line for each exchange, written by a thread of its own.
//!
//! A request never waits for the disk or for whoever reads the log: lines go
//! into a bounded queue, and when that is full they are dropped and counted.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::{AccessLogFormat, AccessLogSettings, LogOutput, line};
use crate::context::Exchange;

/// Lines that may wait to be written.
const QUEUE: usize = 16 * 1024;

/// How long the last lines may take to be written at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Bytes gathered for one write.
const BATCH: usize = 64 * 1024;

/// The access log. Cheap to clone; what is waiting is written before the last
/// clone is gone.
#[derive(Clone)]
pub struct AccessLog(Option<Arc<Writer>>);

struct Writer {
    format: AccessLogFormat,
    /// `None` once the last clone is being dropped.
    queue: Option<SyncSender<String>>,
    dropped: Arc<AtomicU64>,
    /// Closed by the thread when it has written everything.
    written: Mutex<Receiver<()>>,
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for appending, or the system refuses a thread.
    pub fn open(settings: &AccessLogSettings) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match &settings.output {
            LogOutput::Off => return Ok(Self::off()),
            LogOutput::Stdout => Box::new(io::stdout()),
            LogOutput::Stderr => Box::new(io::stderr()),
            LogOutput::File(path) => {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                Box::new(opened.map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?)
            }
        };
        Self::to(output, settings.format)
    }

    /// A log that writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    fn to(output: Box<dyn Write + Send>, format: AccessLogFormat) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        let (open, written) = sync_channel(0);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write_lines(&lines, output, &counter);
            drop(open);
        })?;
        let written = Mutex::new(written);
        Ok(Self(Some(Arc::new(Writer { format, queue: Some(queue), dropped, written }))))
    }

    /// Writes the line of a finished exchange; `false` if it had to be dropped.
    pub fn write(&self, exchange: &Exchange) -> bool {
        let Some(writer) = &self.0 else { return true };
        let Some(queue) = &writer.queue else { return true };
        let line = match writer.format {
            AccessLogFormat::Text => line::text(exchange),
            AccessLogFormat::Json => line::json(exchange),
        };
        if queue.try_send(line).is_ok() {
            return true;
        }
        if writer.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("the access log cannot be written as fast as requests end");
        }
        false
    }

    /// How many lines were dropped because the log could not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |writer| writer.dropped.load(Ordering::Relaxed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing the queue is what ends the thread.
        self.queue = None;
        if self.written.get_mut().recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("whatever reads the access log has stalled; its last lines are lost");
        }
    }
}

fn write_lines(lines: &Receiver<String>, mut output: Box<dyn Write + Send>, dropped: &AtomicU64) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        let mut count = 0;
        while let Some(line) = next {
            batch.extend_from_slice(line.as_bytes());
            count += 1;
            next = match lines.try_recv() {
                Ok(line) if batch.len() < BATCH => Some(line),
                Ok(line) => {
                    batch.extend_from_slice(line.as_bytes());
                    count += 1;
                    None
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
            };
        }
        let written = output.write_all(&batch).and_then(|()| output.flush());
        batch.clear();
        match written {
            Ok(()) => failing = false,
            Err(error) => {
                dropped.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "the access log cannot be written");
                }
            }
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.0.as_ref().map(|writer| writer.format);
        f.debug_struct("AccessLog").field("format", &format).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::line::tests::exchange;

    #[test]
    fn lines_are_in_the_file_when_the_last_handle_is_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = AccessLogSettings {
            output: LogOutput::File(file.path().to_owned()),
            format: AccessLogFormat::Text,
        };
        let log = AccessLog::open(&settings).unwrap();
        let exchange = exchange("/x");
        for _ in 0..1_000 {
            log.write(&exchange);
        }
        drop(log);
        let written = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(written.lines().count(), 1_000);
    }

    #[test]
    fn a_log_that_cannot_be_opened_says_which() {
        let settings = AccessLogSettings {
            output: LogOutput::File("/nonexistent/access.log".into()),
            format: AccessLogFormat::Text,
        };
        let error = AccessLog::open(&settings).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/access.log"), "{error}");
    }

    #[test]
    fn a_stalled_reader_costs_lines_and_not_time() {
        /// A writer that waits until it is let go.
        struct Stalled(std::sync::mpsc::Receiver<()>);
        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _let_go = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (let_go, stalled) = std::sync::mpsc::channel();
        let log = AccessLog::to(Box::new(Stalled(stalled)), AccessLogFormat::Text).unwrap();
        let exchange = exchange("/x");
        for _ in 0..QUEUE * 2 {
            log.write(&exchange);
        }
        assert!(log.dropped() > 0);
        // The end does not wait for the reader either.
        drop(log);
        drop(let_go);
    }
}
