//! The access log: lines in a buffer, written when it is full and once a second.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use pingora::proxy::Session;

/// As nginx's `buffer=64k`.
const BUFFER: usize = 64 * 1024;

/// A file that takes a line for each request.
pub struct AccessLog {
    file: Arc<Mutex<BufWriter<File>>>,
}

impl AccessLog {
    /// Opens it, and starts the thread that writes what is left in the buffer.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = Arc::new(Mutex::new(BufWriter::with_capacity(BUFFER, File::create(path)?)));
        let shared = Arc::clone(&file);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let mut file = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let _full_disk = file.flush();
            }
        });
        Ok(Self { file })
    }

    /// Writes a request's line.
    pub fn write(&self, session: &Session, took: Duration) {
        let request = session.req_header();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let client = session.client_addr().and_then(|address| address.as_inet());
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        let agent = request.headers.get("user-agent").and_then(|value| value.to_str().ok());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _full_disk = writeln!(
            file,
            "{}.{:03} {} \"{} {} {:?}\" {status} {} \"{}\" {}",
            now.as_secs(),
            now.subsec_millis(),
            client.map_or_else(String::new, |client| client.ip().to_string()),
            request.method,
            request.uri,
            request.version,
            session.body_bytes_sent(),
            agent.unwrap_or("-"),
            took.as_micros()
        );
    }
}
