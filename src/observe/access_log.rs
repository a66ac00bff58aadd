//! One line for each exchange, written by a thread of its own.
//!
//! A request never waits for the disk or for whoever reads the log: lines go
//! into a bounded buffer, of which each worker has its own, and when that is full
//! they are dropped and counted. The thread is woken by the first line of a batch
//! and not by the others.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::{AccessLogFormat, AccessLogSettings, LogOutput, line};
use crate::context::Facts;
use crate::seat::seat;

/// Bytes that may wait to be written, of one worker.
const BUFFER: usize = 4 * 1024 * 1024;

/// Bytes that an empty buffer keeps room for.
const KEPT: usize = 64 * 1024;

/// How many workers have a buffer of their own; more share.
const BUFFERS: usize = 16;

/// How long a batch is gathered.
const GATHER: Duration = Duration::from_millis(20);

/// How long the last lines may take to be written at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The access log. Cheap to clone; what is waiting is written before the last
/// clone is gone.
#[derive(Clone)]
pub struct AccessLog(Option<Arc<Writer>>);

struct Writer {
    format: AccessLogFormat,
    waiting: Arc<Waiting>,
    thread: Thread,
    /// Closed by the thread when it has written everything.
    written: Mutex<Receiver<()>>,
}

/// What is to be written.
#[derive(Default)]
struct Waiting {
    buffers: [Mutex<Batch>; BUFFERS],
    /// Whether the thread has been woken and not yet looked.
    woken: AtomicBool,
    ending: AtomicBool,
    dropped: AtomicU64,
    /// What is written to from now on, instead of what was.
    instead: Mutex<Option<Output>>,
}

type Output = Box<dyn Write + Send>;

/// What a log is written to, opened.
pub struct Opened(Option<Output>);

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    /// Whether a line did not fit any more; no other is tried then.
    full: bool,
}

impl Batch {
    /// Writes the line of an exchange straight to where it waits; `false` if
    /// there is no room for it. The lock is held meanwhile: who else wants it
    /// is the thread, for a moment, once a batch.
    fn append(&mut self, format: AccessLogFormat, exchange: &Facts) -> bool {
        if self.full {
            return false;
        }
        let before = self.bytes.len();
        match format {
            AccessLogFormat::Text => line::text(exchange, &mut self.bytes),
            AccessLogFormat::Json => line::json(exchange, &mut self.bytes),
        }
        if self.bytes.len() > BUFFER {
            self.bytes.truncate(before);
            // An empty batch is taken by nobody: in that, the line was too long.
            self.full = self.lines > 0;
            return false;
        }
        self.lines += 1;
        true
    }

    /// Empties it; what a burst took is given back.
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        (self.lines, self.full) = (0, false);
    }
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for appending, or the system refuses a thread.
    pub fn open(settings: &AccessLogSettings) -> io::Result<Self> {
        Self::to(Opened::by(settings)?, settings.format)
    }

    /// Writes to `opened` from now on, as every clone does. What was written to before
    /// is closed, also if nothing more is to be written.
    pub fn go_on_in(&self, opened: Opened) {
        if let (Some(writer), Opened(Some(output))) = (&self.0, opened) {
            *writer.waiting.instead.lock() = Some(output);
            writer.waiting.woken.store(true, Ordering::Release);
            writer.thread.unpark();
        }
    }

    /// A log that writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    fn to(opened: Opened, format: AccessLogFormat) -> io::Result<Self> {
        let Opened(Some(output)) = opened else { return Ok(Self::off()) };
        let waiting = Arc::new(Waiting::default());
        let shared = waiting.clone();
        let (open, written) = sync_channel(0);
        let writing =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
                write_lines(&shared, output);
                drop(open);
            })?;
        let (thread, written) = (writing.thread().clone(), Mutex::new(written));
        Ok(Self(Some(Arc::new(Writer { format, waiting, thread, written }))))
    }

    /// Writes the line of a finished exchange; `false` if it had to be dropped.
    pub fn write(&self, exchange: &Facts) -> bool {
        let Some(writer) = &self.0 else { return true };
        let waiting = &*writer.waiting;
        if !waiting.buffers[seat() % BUFFERS].lock().append(writer.format, exchange) {
            if waiting.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!("the access log cannot be written as fast as requests end");
            }
            return false;
        }
        if !waiting.woken.swap(true, Ordering::AcqRel) {
            writer.thread.unpark();
        }
        true
    }

    /// How many lines were dropped because the log could not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |writer| writer.waiting.dropped.load(Ordering::Relaxed))
    }
}

impl Opened {
    /// Opens what these settings name.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for appending.
    pub fn by(settings: &AccessLogSettings) -> io::Result<Self> {
        Ok(Self(match &settings.output {
            LogOutput::Off => None,
            LogOutput::Stdout => Some(Box::new(io::stdout())),
            LogOutput::Stderr => Some(Box::new(io::stderr())),
            LogOutput::File(path) => {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                Some(Box::new(opened.map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?))
            }
        }))
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opened").finish_non_exhaustive()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.waiting.ending.store(true, Ordering::Release);
        self.thread.unpark();
        if self.written.get_mut().recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("whatever reads the access log has stalled; its last lines are lost");
        }
    }
}

fn write_lines(waiting: &Waiting, mut output: Output) {
    let mut batch = Batch::default();
    let mut failing = false;
    loop {
        // Looked at before the buffers: what was written before is then seen.
        let ending = waiting.ending.load(Ordering::Acquire);
        if !ending && !waiting.woken.load(Ordering::Acquire) {
            std::thread::park();
            continue;
        }
        if !ending {
            // Woken early only by the end, which is looked at in the next turn.
            std::thread::park_timeout(GATHER);
        }
        waiting.woken.store(false, Ordering::Release);
        let instead = waiting.instead.lock().take();
        if let Some(instead) = instead {
            output = instead;
        }
        for buffer in &waiting.buffers {
            {
                let mut waiting = buffer.lock();
                if waiting.lines == 0 {
                    continue;
                }
                std::mem::swap(&mut batch, &mut *waiting);
            }
            let written = output.write_all(&batch.bytes).and_then(|()| output.flush());
            match written {
                Ok(()) => failing = false,
                Err(error) => {
                    waiting.dropped.fetch_add(batch.lines, Ordering::Relaxed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "the access log cannot be written");
                    }
                }
            }
            batch.clear();
        }
        if ending {
            return;
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
    fn a_log_that_goes_on_in_another_file_lets_go_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("access.log"), dir.path().join("moved"));
        let settings =
            AccessLogSettings { output: LogOutput::File(path.clone()), ..Default::default() };
        let log = AccessLog::open(&settings).unwrap();
        let (clone, exchange) = (log.clone(), exchange("/x"));
        clone.write(&exchange);
        let lines = |path| std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
        while lines(&path) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::rename(&path, &moved).unwrap();
        log.go_on_in(Opened::by(&settings).unwrap());
        let held = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap();
            links.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == moved))
        };
        while held() {
            std::thread::sleep(Duration::from_millis(1));
        }
        clone.write(&exchange);
        drop((log, clone));
        assert_eq!((lines(&path), lines(&moved)), (1, 1));
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
    fn a_line_that_is_too_long_costs_itself_only() {
        let (mut batch, exchange) = (Batch::default(), exchange("/x"));
        exchange.update(|record| record.error = Some("x".repeat(BUFFER)));
        assert!(!batch.append(AccessLogFormat::Text, &exchange));
        exchange.update(|record| record.error = None);
        assert!(batch.append(AccessLogFormat::Text, &exchange));
        assert_eq!(batch.bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
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
        let log =
            AccessLog::to(Opened(Some(Box::new(Stalled(stalled)))), AccessLogFormat::Text).unwrap();
        let exchange = exchange("/x");
        for _ in 0..100_000 {
            log.write(&exchange);
        }
        assert!(log.dropped() > 0);
        // The end does not wait for the reader either.
        drop(log);
        drop(let_go);
    }
}
