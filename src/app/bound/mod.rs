//! A proxy whose listeners are open: serving, and ending.

mod admin_socket;
mod end;
mod workers;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use end::Ended;
use end::Ending;

use super::control::{Control, Told};
use super::upgrade::Beginning;
use super::{Proxy, follow};
pub use crate::accept::BindError;
use crate::accept::{Inherited, ListenAddress, Listeners, Permits, Shared};
use crate::admin::{self, AdminState, Readiness};
use crate::budget::Budget;
use crate::config::Settings;
use crate::drain;

/// How long a process that takes over from another looks at its origins first.
const FIRST_PROBES: Duration = Duration::from_secs(5);

/// A proxy whose listeners are bound.
#[derive(Debug)]
pub struct Bound {
    control: Control,
    told: Told,
    settings: Settings,
    budget: Budget,
    admin: Option<TcpListener>,
    drain: drain::Trigger,
    workers: usize,
}

impl Bound {
    pub(super) fn new(proxy: Proxy, mut inherited: Inherited) -> Result<Self, BindError> {
        let Proxy { first, common, trigger: drain, source } = proxy;
        let settings = &first.settings;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = settings.server.workers.unwrap_or(cores).max(1);
        let permits = Permits::new(settings.server.connections, common.budget.clone());
        let (watcher, counts) = (drain.watcher(), common.metrics.clone());
        let shared = Shared { workers, permits, metrics: counts, drain: watcher };
        let listeners =
            Listeners::bind(&settings.listeners, first.tls.clone(), shared, &mut inherited)?;
        let admin = match &settings.admin {
            Some(admin) => Some(admin_socket::bind(admin.address, &mut inherited)?),
            None => None,
        };
        inherited.close();
        let (settings, budget) = (settings.clone(), common.budget.clone());
        let (control, told) = Control::new(first, common, listeners, source);
        Ok(Self { control, told, settings, budget, admin, drain, workers })
    }

    /// What it was built from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The memory that it takes from for what it carries.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Its listeners, which can be changed while it runs.
    #[must_use]
    pub fn listeners(&self) -> &Listeners {
        &self.control.0.listeners
    }

    /// What changes it while it runs.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Where a listener is bound; empty if there is none of that name.
    #[must_use]
    pub fn bound_to(&self, listener: &str) -> Vec<ListenAddress> {
        self.listeners().bound_to(listener).unwrap_or_default()
    }

    /// The TCP addresses among those of [`Bound::bound_to`].
    #[must_use]
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        self.listeners().addresses(listener)
    }

    /// Where the admin listener is bound.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|admin| admin.local_addr().ok())
    }

    /// Serves until `shutdown` resolves, then ends as its settings say: it is not
    /// ready any more, serves on while load balancers take notice, drains, and cuts
    /// what is left at the deadline.
    ///
    /// Connections are served by worker threads of its own; probes, the admin
    /// listener and whatever follows the files run on the caller's runtime.
    ///
    /// # Errors
    ///
    /// The system refused a thread, a runtime, or to poll a socket.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<Ended> {
        self.run_from(Beginning::default(), shutdown).await
    }

    /// The same for a process that takes over from another: nobody accepts a
    /// connection before that one says so. It also ends once a successor has taken
    /// over from this one.
    ///
    /// # Errors
    ///
    /// The system refused a thread, a runtime, or to poll a socket.
    pub async fn run_from(
        self,
        mut beginning: Beginning,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<Ended> {
        let Self { control, told, admin, drain, workers, .. } = self;
        let stop = CancellationToken::new();
        // Also if this future is dropped.
        let _stopped = stop.clone().drop_guard();
        control.succeed(&beginning);
        let (inner, live) = (control.0.clone(), control.live());
        let metrics = &inner.common.metrics;
        let (workers, threads) = workers::start(workers, metrics, live, &told.upstreams, &stop)?;
        let listeners = &inner.listeners;
        listeners.enlist(workers)?;
        control.start_keepers();
        count_tasks(&control);
        let mut shutdown = pin!(shutdown);
        if !goes(&control, &mut beginning, shutdown.as_mut()).await {
            listeners.close();
            stop.cancel();
            workers::join(threads).await;
            return Ok(Ended::default());
        }
        let ready = Readiness::default();
        let admin = match admin {
            Some(socket) => {
                let state = AdminState::new(metrics.clone(), ready.clone(), drain.watcher());
                Some(administer(&control, socket, state, &stop)?)
            }
            None => None,
        };
        let _followers = follow::start(&control, told.files);
        listeners.open();
        control.take_disk();
        ready.set(true);
        beginning.serving();
        let _signs_of_life = follow::signs_of_life(&control, &beginning.notifier);
        let handed_over = tokio::select! {
            () = shutdown.as_mut() => false,
            () = listeners.released() => true,
        };
        ready.end();
        control.0.stopping.cancel();
        let ending = Ending::new(&control.in_force().0.settings.server, handed_over);
        if !handed_over {
            beginning.notifier.stopping();
            beginning.notifier.extend_timeout(ending.longest());
        }
        let mut drained = pin!(ending.carry_out(drain));
        let ended = tokio::select! {
            ended = drained.as_mut() => ended,
            // It ends already; but whoever tells it twice is to be heard.
            () = shutdown, if handed_over => drained.await,
        };
        stop.cancel();
        listeners.close();
        if let Some(admin) = admin {
            let _ended = admin.await;
        }
        workers::join(threads).await;
        control.close_disk().await;
        Ok(ended)
    }
}

/// Whether this process is to serve, once that is known.
async fn goes(
    control: &Control,
    beginning: &mut Beginning,
    shutdown: Pin<&mut impl Future<Output = ()>>,
) -> bool {
    let goes = async {
        if beginning.waits() {
            // Whoever serves meanwhile knows which origins are not to be asked.
            control.probed(FIRST_PROBES).await;
        }
        beginning.go().await
    };
    tokio::select! {
        biased;
        goes = goes => goes,
        // Nothing has been accepted: the sockets are still another's.
        () = shutdown => false,
    }
}

/// Starts the admin listener, which answers to the last.
fn administer(
    control: &Control,
    socket: TcpListener,
    state: AdminState,
    stop: &CancellationToken,
) -> io::Result<JoinHandle<io::Result<()>>> {
    let state = state.operated_by(Arc::new(control.clone())).guarded_by(control.0.token.clone());
    let socket = control.0.listeners.beside(socket)?;
    Ok(tokio::spawn(admin::serve(socket, state, stop.clone().cancelled_owned())))
}

/// Has the metrics tell how many tasks there are.
fn count_tasks(control: &Control) {
    let (main, inner) = (Handle::current(), Arc::downgrade(&control.0));
    control.0.common.metrics.watch_tasks(move || {
        let workers = inner.upgrade().map_or(0, |inner| inner.listeners.tasks());
        vec![("main", main.metrics().num_alive_tasks()), ("workers", workers)]
    });
}
