//! Appends purges to the stream.

use std::sync::atomic::Ordering;

use super::message::{Id, Message};
use super::{Fleet, FleetPosition, Purge};
use crate::layers::Cache;
use crate::redis::{Cmd, Pause, Redis, RedisError, Value, cmd};

impl Fleet {
    /// Tells the others what this cache is purged of, and purges it of what they tell, for
    /// as long as it is polled. [`Redis::run`] has to be running as well.
    ///
    /// `position` is for a cache that outlives the process: where it is kept how far it
    /// has heard. Without it everything that is stored when the stream is first read is
    /// validated before it is used again.
    pub async fn run(self, cache: Cache, redis: Redis, position: Option<FleetPosition>) {
        tokio::join!(self.tells(&redis), self.follows(&cache, &redis, position));
    }

    async fn tells(&self, redis: &Redis) {
        let (mut pause, mut said) = (Pause::default(), false);
        loop {
            let (number, what, soft) = self.0.outbox.first().await;
            match self.asks(redis, &self.append(Some(what), soft)).await.and_then(id) {
                Ok(id) => {
                    self.0.sent.fetch_add(1, Ordering::Relaxed);
                    self.0.outbox.told(number, &id.to_string());
                    pause.reset();
                    self.0.heard.lock().untold = None;
                    if std::mem::take(&mut said) {
                        tracing::info!("cache fleet: purges are told again");
                    }
                }
                Err(error) => {
                    let waiting = self.0.outbox.len();
                    // That Redis is gone is said by whoever keeps the connection to it.
                    if matches!(error, RedisError::Refused(_)) && !said {
                        tracing::warn!(%error, waiting, "cache fleet: purges are not told");
                        said = true;
                    } else {
                        tracing::debug!(%error, waiting, "cache fleet: a purge is not told yet");
                    }
                    let why = redis.trouble().unwrap_or_else(|| error.to_string());
                    self.not_told(why, matches!(error, RedisError::Unreachable));
                    tokio::time::sleep(pause.after_failure()).await;
                    redis.connected().await;
                }
            }
        }
    }

    /// The key that all of this is about, which says where in a cluster it is.
    pub(super) fn key(&self) -> &[u8] {
        self.0.settings.stream.as_bytes()
    }

    pub(super) async fn asks(&self, redis: &Redis, command: &Cmd) -> Result<Value, RedisError> {
        redis.ask_about(self.key(), command).await
    }

    /// That Redis is not there takes the place of no better reason.
    fn not_told(&self, why: String, is_unreachable: bool) {
        let mut heard = self.0.heard.lock();
        if !is_unreachable || heard.untold.is_none() {
            heard.untold = Some(why);
        }
    }

    /// Appends a purge, or, without one, only an entry that can be read from.
    pub(super) fn append(&self, what: Option<Purge>, soft: bool) -> Cmd {
        let mut command = cmd("XADD");
        command.arg(&self.0.settings.stream).arg("MAXLEN").arg("~");
        command.arg(self.0.settings.max_length);
        self.entry(command, what, soft)
    }

    /// Appends an entry that can be read from, and takes away what is before this one.
    pub(super) fn append_and_trim(&self, before: Id) -> Cmd {
        let mut command = cmd("XADD");
        command.arg(&self.0.settings.stream).arg("MINID").arg("=").arg(before.to_string());
        self.entry(command, None, false)
    }

    fn entry(&self, mut command: Cmd, what: Option<Purge>, soft: bool) -> Cmd {
        command.arg("*");
        for (name, value) in (Message { from: self.0.instance.clone(), what, soft }).fields() {
            command.arg(name).arg(value);
        }
        command
    }
}

/// The id of what was appended.
pub(super) fn id(value: Value) -> Result<Id, RedisError> {
    let text = match value {
        Value::BulkString(text) => text,
        Value::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    };
    Id::read(&text).ok_or_else(|| RedisError::Broken("it answers with no id".to_owned()))
}
