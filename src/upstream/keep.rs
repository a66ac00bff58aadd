//! What is done for an upstream beside its requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::sources::{Member, Source};
use super::{Origin, Upstream, probe};

impl Upstream {
    /// Keeps names resolved, probes the origins, brings back those set aside, and
    /// closes connections that idled too long. Runs until dropped, or until
    /// another upstream has succeeded this one. One that was
    /// [renewed](Self::renewed) begins when it has succeeded.
    pub async fn keep(self: Arc<Self>) {
        let life = &self.life;
        let work = async {
            life.begun.cancelled().await;
            self.tell();
            let probes = async {
                match &self.settings.health {
                    Some(check) => probe::run(&self, check).await,
                    None => std::future::pending().await,
                }
            };
            tokio::join!(probes, self.bring_back(), self.sweep(), self.follow());
        };
        let _over = life.over.run_until_cancelled(work).await;
    }

    /// Makes the connections that the settings want made ahead, for the calling
    /// thread's requests, and again to each origin that appears. Runs until
    /// dropped if there can be such, or until another upstream has succeeded this
    /// one. One that was [renewed](Self::renewed) begins when it has succeeded,
    /// and with the origins that are new; those it shares with the upstream before
    /// are warm, unless there is to be more of that now.
    pub async fn warm(self: Arc<Self>) {
        if self.settings.warm > 0 {
            let _over = self.life.over.run_until_cancelled(self.warm_all()).await;
        }
    }

    async fn warm_all(&self) {
        self.life.begun.cancelled().await;
        let count = self.settings.warm;
        let mut changes = self.changes();
        let mut known: Vec<Arc<Origin>> = Vec::new();
        loop {
            let members = self.members.load_full();
            let new = |member: &&Member| !known.iter().any(|old| Arc::ptr_eq(old, &member.origin));
            let warm = |member: &Member| {
                let done = if member.shared { self.life.warmed } else { 0 };
                let (origin, count) = (member.origin.clone(), count.saturating_sub(done));
                async move {
                    if !origin.standing().is_drained() {
                        origin.warm(count).await;
                    }
                }
            };
            futures_util::future::join_all(members.iter().filter(new).map(warm)).await;
            known = members.iter().map(|member| member.origin.clone()).collect();
            if !self.sources.iter().any(Source::has_changing_origins)
                || changes.changed().await.is_err()
            {
                return;
            }
        }
    }

    /// Waits until each of its origins has been probed, if any is. It has to be
    /// [kept](Self::keep) meanwhile.
    pub async fn probed(&self) {
        const LOOK: Duration = Duration::from_millis(10);
        let waits = |member: &Member| member.origin.standing().last_probe().is_none();
        while self.settings.health.is_some() && self.members.load().iter().any(waits) {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn bring_back(&self) {
        loop {
            // Whoever's time has passed since the rotation was published is in
            // the past by now, and still to be brought back.
            let now = *self.looked_at.lock();
            let members = self.members.load_full();
            let until = |member: &Member| member.origin.standing().set_aside_until(now);
            let next = members.iter().filter_map(until).min();
            match next {
                // A timer's resolution is a millisecond: a little later, so
                // that the origin is past its time when it is looked at.
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at + Duration::from_millis(2)) => self.spread(),
                    () = self.set_aside.notified() => {}
                },
                None => self.set_aside.notified().await,
            }
        }
    }

    async fn sweep(&self) {
        let every = self.settings.timeouts.pool_idle.div_f32(2.0);
        loop {
            tokio::time::sleep(every.max(Duration::from_millis(100))).await;
            let now = Instant::now();
            for origin in self.origins() {
                origin.pool().sweep(now);
            }
        }
    }
}
