//! Reads the stream, and carries out what others have told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::message::{Garbled, Id, Message};
use super::tell::id;
use super::{Fleet, FleetPosition, Purge};
use crate::layers::Cache;
use crate::redis::{Dedicated, Pause, Redis, RedisError, Value, cmd};

/// How long Redis holds a reading when there is nothing: this, and the time for an
/// answer, is after how long it is noticed that it does not answer at all.
const HOLD: Duration = Duration::from_secs(2);

/// Entries that are read at once.
const BATCH: usize = 100;

/// The longest answer: as many entries at their longest, and then some.
const LONGEST_ANSWER: u64 = 4 << 20;

/// How often it is looked why Redis is not there.
const TELL: Duration = Duration::from_millis(250);

/// How long a connection has to last before its loss is not held against Redis.
const LASTS: Duration = Duration::from_secs(10);

/// What was read of one entry.
struct Entry {
    id: Id,
    says: Result<Message, Garbled>,
}

/// How far the stream was read, and what it is read by.
struct Reader<'a> {
    fleet: &'a Fleet,
    cache: &'a Cache,
    redis: &'a Redis,
    position: Option<FleetPosition>,
    /// The last entry that was carried out, or where reading began.
    known: Option<Id>,
    /// Whether the cache had its disk when it was last looked: the position is the disk's.
    has_disk: bool,
}

impl Fleet {
    pub(super) async fn follows(
        &self,
        cache: &Cache,
        redis: &Redis,
        position: Option<FleetPosition>,
    ) {
        let mut reader =
            Reader { fleet: self, cache, redis, position, known: None, has_disk: false };
        let (mut pause, mut said) = (Pause::default(), false);
        loop {
            self.waits_for(redis).await;
            let began = Instant::now();
            let error = match redis.dedicated_to(self.key(), LONGEST_ANSWER).await {
                Ok(mut connection) => {
                    let error = reader.read(&mut connection, &mut said).await;
                    if matches!(error, RedisError::TooLong(_)) {
                        reader.leap().await;
                    }
                    error
                }
                Err(error) => error,
            };
            self.not_heard(error.to_string());
            // That Redis is gone is said by whoever keeps the connection to it.
            if redis.is_connected() && !said {
                tracing::warn!(%error, "cache fleet: purges of others are not heard");
                said = true;
            }
            if began.elapsed() > LASTS {
                pause.reset();
            }
            tokio::time::sleep(pause.after_failure()).await;
        }
    }
}

impl Fleet {
    /// Waits until Redis is there, and has everybody know meanwhile why it is not.
    async fn waits_for(&self, redis: &Redis) {
        while tokio::time::timeout(TELL, redis.connected()).await.is_err() {
            if let Some(why) = redis.trouble() {
                self.not_heard(why);
            }
        }
    }

    fn not_heard(&self, why: String) {
        let mut heard = self.0.heard.lock();
        (heard.connected, heard.trouble) = (false, Some(why));
    }
}

impl Reader<'_> {
    /// Begins again where the disk's last process ended, if that is known, and if the disk
    /// has come since this was last asked: it may have heard less than the memory has.
    async fn remember(&mut self) -> bool {
        let Some(position) = self.position.clone() else { return false };
        let has_disk = self.cache.has_disk();
        if !has_disk || std::mem::replace(&mut self.has_disk, has_disk) {
            return false;
        }
        let loaded = tokio::task::spawn_blocking(move || position.load()).await;
        self.known = loaded.unwrap_or_default();
        self.fleet.0.heard.lock().id = self.known.map(|id| id.to_string());
        true
    }

    /// Reads for as long as it goes well.
    async fn read(&mut self, connection: &mut Dedicated, said: &mut bool) -> RedisError {
        // Whether what was not read yet is known to stand in the stream.
        let mut covered = false;
        loop {
            if self.remember().await {
                covered = false;
            }
            let step = async {
                if !covered {
                    self.settle(connection).await?;
                }
                self.next(connection).await
            };
            let entries = match step.await {
                Ok(entries) => entries,
                Err(error) => return error,
            };
            covered = !entries.is_empty() && entries.len() < BATCH;
            if std::mem::take(said) {
                tracing::info!("cache fleet: purges of others are heard again");
            }
            self.carry_out(entries).await;
            let mut heard = self.fleet.0.heard.lock();
            (heard.at, heard.connected, heard.trouble) = (Instant::now(), true, None);
        }
    }

    /// Makes sure that whatever was told since the last entry that is known can be read.
    /// If it cannot, everything that is stored is validated before it is used again.
    async fn settle(&mut self, connection: &mut Dedicated) -> Result<(), RedisError> {
        let first = self.end(connection, "XRANGE", ["-", "+"]).await?;
        let last = self.end(connection, "XREVRANGE", ["+", "-"]).await?;
        let (first, last) = first.zip(last).unzip();
        let covered = self.known.is_some_and(|known| {
            first.is_some_and(|first| first.before() <= known)
                && last.is_some_and(|last| known <= last)
        });
        if covered {
            return Ok(());
        }
        // Who has stored nothing yet has nothing that was purged before.
        let is_new = self.known.is_none() && self.position.is_none();
        let begin = match (first, last) {
            (Some(first), Some(last)) => {
                if is_new {
                    last
                } else {
                    first.before()
                }
            }
            // There has to be something that tells this stream from one that was lost.
            _ => id(self.ask(connection, &self.fleet.append(None, false)).await?)?,
        };
        self.begin_at(begin).await;
        Ok(())
    }

    /// The id of the entry at one end of the stream.
    async fn end(
        &self,
        connection: &mut Dedicated,
        command: &str,
        ends: [&str; 2],
    ) -> Result<Option<Id>, RedisError> {
        let mut command = cmd(command);
        command.arg(&self.fleet.0.settings.stream).arg(&ends).arg("COUNT").arg(1);
        let entries = entries(self.ask(connection, &command).await?)?;
        Ok(entries.first().map(|entry| entry.id))
    }

    async fn ask(
        &self,
        connection: &mut Dedicated,
        command: &crate::redis::Cmd,
    ) -> Result<Value, RedisError> {
        connection.ask(command, self.redis.settings().timeout).await
    }

    /// Passes over what is too long to be read: the next entry will be one of ours. What
    /// is before that goes, or the first entry of the stream might never be read by anyone.
    async fn leap(&mut self) {
        match self.fleet.asks(self.redis, &self.fleet.append(None, false)).await.and_then(id) {
            Ok(id) => {
                let trimmed = self.fleet.asks(self.redis, &self.fleet.append_and_trim(id)).await;
                if let Err(error) = trimmed {
                    tracing::debug!(%error, "cache fleet: what is too long stays in the stream");
                }
                self.begin_at(id).await;
            }
            Err(error) => tracing::debug!(%error, "cache fleet: what is too long stays in the way"),
        }
    }

    /// Reads on behind this entry. What was told before it was not heard, and may be about
    /// anything.
    async fn begin_at(&mut self, begin: Id) {
        let before = self.known.replace(begin);
        let cache = self.cache.clone();
        let purge = move || cache.purge(&Purge::All, true);
        let count = tokio::task::spawn_blocking(purge).await.unwrap_or_default();
        if before.is_some() {
            self.fleet.0.lost.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                stored = count,
                "cache fleet: purges of others were lost, for the stream has not kept them; \
                 everything stored is validated before it is used again"
            );
        } else if count > 0 {
            tracing::info!(
                stored = count,
                "cache fleet: what others purged before is not known; everything stored is \
                 validated before it is used again"
            );
        }
        self.note().await;
    }

    /// What stands behind the last entry that is known; waits for it, but not for long.
    async fn next(&self, connection: &mut Dedicated) -> Result<Vec<Entry>, RedisError> {
        let Some(known) = self.known else { return Ok(Vec::new()) };
        let mut command = cmd("XREAD");
        #[allow(clippy::cast_possible_truncation, reason = "it is two seconds")]
        let hold = HOLD.as_millis() as u64;
        command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(hold).arg("STREAMS");
        command.arg(&self.fleet.0.settings.stream).arg(known.to_string());
        let patience = HOLD + self.redis.settings().timeout;
        match connection.ask(&command, patience).await? {
            Value::Nil => Ok(Vec::new()),
            // One stream was asked for: its name, and its entries.
            Value::Array(mut streams) => match streams.pop() {
                Some(Value::Array(mut named)) if named.len() == 2 => {
                    entries(named.pop().unwrap_or(Value::Nil))
                }
                _ => Err(not_understood()),
            },
            _ => Err(not_understood()),
        }
    }

    async fn carry_out(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|entry| entry.id) else { return };
        let (mut purges, mut unread, mut why) = (Vec::new(), 0, "");
        for Entry { id, says } in entries {
            match says {
                Ok(Message { from, .. }) if from == self.fleet.0.instance => {}
                Ok(Message { what: None, .. }) => {}
                Ok(Message { what: Some(what), soft, from }) => {
                    tracing::debug!(%id, from, soft, ?what, "cache fleet: a purge is heard");
                    purges.push((what, soft));
                }
                Err(garbled) => (unread, why) = (unread + 1, garbled),
            }
        }
        if unread > 0 {
            self.fleet.0.unread.fetch_add(unread, Ordering::Relaxed);
            let stream = &self.fleet.0.settings.stream;
            tracing::warn!(
                stream,
                unread,
                why,
                "cache fleet: entries are not understood, and passed over"
            );
        }
        let (count, cache) = (purges.len() as u64, self.cache.clone());
        if count > 0 {
            // A look at everything that is stored takes its time.
            let purge = move || {
                for (what, soft) in &purges {
                    cache.purge(what, *soft);
                }
            };
            if tokio::task::spawn_blocking(purge).await.is_err() {
                tracing::error!("cache fleet: a purge ended in a panic");
            }
            self.fleet.0.received.fetch_add(count, Ordering::Relaxed);
        }
        self.known = Some(last);
        self.note().await;
    }

    /// Notes how far it was read.
    async fn note(&self) {
        let Some(id) = self.known else { return };
        self.fleet.0.heard.lock().id = Some(id.to_string());
        let Some(position) = self.position.clone() else { return };
        // What was heard without the disk, or while it was let go of, was not heard by it.
        if !self.has_disk || !self.cache.has_disk() {
            return;
        }
        match tokio::task::spawn_blocking(move || position.save(id)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "cache fleet: how far purges were heard cannot be noted");
            }
            Err(_) => tracing::error!("cache fleet: noting how far purges were heard panicked"),
        }
    }
}

/// The entries of an answer. One whose place in the stream cannot be told is nothing that
/// a Redis sends.
fn entries(value: Value) -> Result<Vec<Entry>, RedisError> {
    let Value::Array(entries) = value else { return Err(not_understood()) };
    entries.into_iter().map(|entry| read(&entry).ok_or_else(not_understood)).collect()
}

fn read(entry: &Value) -> Option<Entry> {
    let Value::Array(parts) = entry else { return None };
    let Some(Value::BulkString(id)) = parts.first() else { return None };
    let id = Id::read(id)?;
    let bytes = |value: &Value| match value {
        Value::BulkString(bytes) => Some(bytes.clone()),
        _ => None,
    };
    let fields: Option<Vec<Vec<u8>>> = match parts.get(1) {
        Some(Value::Array(fields)) => fields.iter().map(bytes).collect(),
        _ => None,
    };
    let says = match fields {
        Some(fields) if fields.len().is_multiple_of(2) => {
            Message::read(fields.chunks_exact(2).map(|pair| (&*pair[0], &*pair[1])))
        }
        _ => Err("no fields"),
    };
    Some(Entry { id, says })
}

fn not_understood() -> RedisError {
    RedisError::Broken("it answers with something that is not understood".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_entry_of_a_strange_shape_still_has_its_place() {
        for fields in [
            Value::Nil,
            Value::Int(1),
            Value::Array(vec![bulk("v")]),
            Value::Array(vec![Value::Nil, Value::Nil]),
        ] {
            let read =
                entries(Value::Array(vec![Value::Array(vec![bulk("1-2"), fields])])).unwrap();
            assert_eq!(read[0].id.to_string(), "1-2");
            assert!(read[0].says.is_err());
        }
        for wrong in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![Value::Array(vec![bulk("x")])]),
        ] {
            assert!(entries(wrong).is_err());
        }
    }
}
