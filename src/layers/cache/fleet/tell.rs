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
        let mut pause = Pause::default();
        loop {
            let (number, what, soft) = self.0.outbox.first().await;
            match redis.ask(&self.append(Some(what), soft)).await.and_then(id) {
                Ok(id) => {
                    self.0.sent.fetch_add(1, Ordering::Relaxed);
                    self.0.outbox.told(number, &id.to_string());
                    pause.reset();
                }
                Err(error) => {
                    let waiting = self.0.outbox.len();
                    tracing::debug!(%error, waiting, "cache fleet: a purge is not told yet");
                    self.0.heard.lock().trouble =
                        Some(redis.trouble().unwrap_or_else(|| error.to_string()));
                    tokio::time::sleep(pause.after_failure()).await;
                    redis.connected().await;
                }
            }
        }
    }

    /// Appends a purge, or, without one, only an entry that can be read from.
    pub(super) fn append(&self, what: Option<Purge>, soft: bool) -> Cmd {
        let settings = &self.0.settings;
        let mut command = cmd("XADD");
        command.arg(&settings.stream).arg("MAXLEN").arg("~").arg(settings.max_length).arg("*");
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
