//! An admin listener whose operator notes what it is asked.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tollgate::accept::{ConnectionLimits, Inherited, Listeners, Permits, Shared};
use tollgate::admin::{
    AdminState, Confirmed, LastReload, Operator, PendingConfirm, Readiness, Refused, Reload,
    Reloaded, Reply, Status, Token, Upgraded,
};
use tollgate::budget::Budget;
use tollgate::drain;
use tollgate::layers::KeyDigest;
use tollgate::observe::{LogFilter, LogLevelSource, Metrics, ReloadResult, ReloadTrigger};
use tollgate::upstream::{OriginChange, OriginStatus, UpstreamStatus};
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

/// The plan of every reload.
pub const PLAN: &str = "routes\n  + blog\n";

/// With only one log in the process, tracing would not ask it about what another
/// thread is the first to log.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

/// An admin listener with a thread of its own, as long as it is held.
pub struct Operated {
    pub address: SocketAddr,
    operator: Arc<Noting>,
    log: Log,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Notes what it is asked.
#[derive(Debug, Default)]
struct Noting {
    asked: Mutex<Vec<String>>,
    refuses: Mutex<Option<Refused>>,
    held: Mutex<Option<Arc<Notify>>>,
    finished: AtomicUsize,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Operated {
    pub fn start(token: Option<KeyDigest>) -> Self {
        LazyLock::force(&ANOTHER);
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (operator, log) = (Arc::new(Noting::default()), Log::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let (noting, written) = (operator.clone(), log.clone());
        let thread = std::thread::spawn(move || {
            let writer = move || written.clone();
            let log = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
            tracing::subscriber::with_default(log, || serve(socket, noting, token, stopped));
        });
        Self { address, operator, log, stop: Some(stop), thread: Some(thread) }
    }

    /// From now on refuses whatever it is asked.
    pub fn refuse(&self, refused: Refused) {
        *self.operator.refuses.lock() = Some(refused);
    }

    /// Has reloads wait until they are let go.
    pub fn hold(&self) -> Arc<Notify> {
        self.operator.held.lock().insert(Arc::default()).clone()
    }

    /// What it was asked.
    pub fn asked(&self) -> Vec<String> {
        self.operator.asked.lock().clone()
    }

    /// How many reloads it has finished.
    pub fn finished(&self) -> usize {
        self.operator.finished.load(Ordering::SeqCst)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        String::from_utf8(self.log.0.lock().clone()).unwrap()
    }
}

impl Drop for Operated {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn serve(
    socket: TcpListener,
    operator: Arc<Noting>,
    token: Option<KeyDigest>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let metrics = Metrics::default();
        let shared = Shared {
            workers: 1,
            permits: Permits::new(ConnectionLimits::default(), Budget::unlimited()),
            metrics: metrics.clone(),
            drain: drain::Watcher::never(),
        };
        let listeners = Listeners::bind(&[], Vec::new(), shared, &mut Inherited::default());
        let socket = listeners.unwrap().beside(socket).unwrap();
        let ready = Readiness::default();
        ready.set(true);
        let state = AdminState::new(metrics, ready, drain::Watcher::never())
            .operated_by(operator)
            .guarded_by(Token::new(token));
        let ended = async {
            let _dropped = stopped.await;
        };
        tollgate::admin::serve(socket, state, ended).await.unwrap();
    });
}

impl Noting {
    fn note<T>(&self, what: String, done: T) -> Result<T, Refused> {
        self.asked.lock().push(what);
        self.refuses.lock().clone().map_or(Ok(done), Err)
    }

    fn reply<T: Send + 'static>(&self, what: &str, done: T) -> Reply<'_, T> {
        let outcome = self.note(what.to_owned(), done);
        Box::pin(async move { outcome })
    }

    fn reloaded(confirm_within: Option<Duration>) -> Reloaded {
        let plan = json!({ "routes": { "added": ["blog"] } });
        Reloaded { generation: 4, changed: true, plan, text: PLAN.to_owned(), confirm_within }
    }
}

/// An origin that is drained, and has another weight than is configured.
fn origin(name: &str) -> OriginStatus {
    OriginStatus {
        name: name.to_owned(),
        url: format!("http://{name}"),
        weight: 3,
        configured_weight: 1,
        drained: true,
        healthy: true,
        condemned: false,
        reason: None,
        set_aside_for_ms: None,
        open_connections: 2,
    }
}

impl Operator for Noting {
    fn status(&self) -> Status {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Status {
            version: "1.2.3".into(),
            pid: 77,
            uptime: Duration::from_secs(3_661),
            config_file: Some("/etc/tollgate/config.toml".into()),
            generation: 4,
            loaded_at: at,
            last_reload: Some(LastReload {
                at,
                trigger: ReloadTrigger::Signal,
                result: ReloadResult::Failed,
                report: Some("config.toml:3:1: `server.wrokers`: there is no such key".into()),
            }),
            pending_confirm: Some(PendingConfirm { generation: 4, left: Duration::from_secs(42) }),
            needs_restart: vec!["server.workers".to_owned(), "log.format".to_owned()],
        }
    }

    fn reload(&self, reload: Reload) -> Reply<'_, Reloaded> {
        let outcome = self.note(format!("{reload:?}"), Self::reloaded(reload.confirm));
        let held = self.held.lock().clone();
        Box::pin(async move {
            if let Some(held) = held {
                held.notified().await;
            }
            self.finished.fetch_add(1, Ordering::SeqCst);
            outcome
        })
    }

    fn confirm(&self) -> Reply<'_, Confirmed> {
        self.reply("confirm", Confirmed { generation: 4 })
    }

    fn roll_back(&self) -> Reply<'_, Reloaded> {
        self.reply("roll back", Self::reloaded(None))
    }

    fn upgrade(&self) -> Reply<'_, Upgraded> {
        self.reply("upgrade", Upgraded { pid: 78 })
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        let origins = ["127.0.0.1:80", "[::1]:80"].map(origin).to_vec();
        vec![UpstreamStatus { name: "my api".to_owned(), origins }]
    }

    fn set_origin(
        &self,
        upstream: &str,
        origin: &str,
        change: &OriginChange,
    ) -> Result<OriginStatus, Refused> {
        let change = serde_json::to_string(change).unwrap();
        self.note(format!("{upstream} {origin} {change}"), self::origin(origin))
    }

    fn log_level(&self) -> Result<LogFilter, Refused> {
        self.set_log_level(None)
    }

    fn set_log_level(&self, level: Option<&str>) -> Result<LogFilter, Refused> {
        let now = LogFilter {
            level: level.unwrap_or("info").to_owned(),
            from: LogLevelSource::Operator,
            configured: "info".to_owned(),
        };
        self.note(format!("log level {level:?}"), now)
    }

    fn set_rate_limit_dry_run(
        &self,
        route: &str,
        limit: Option<&str>,
        dry_run: bool,
    ) -> Result<(), Refused> {
        let limit = limit.map_or_else(String::new, |limit| format!(" {limit}"));
        self.note(format!("{route}{limit} {dry_run}"), ())
    }

    fn certificates(&self) -> Vec<Value> {
        Vec::new()
    }
}
