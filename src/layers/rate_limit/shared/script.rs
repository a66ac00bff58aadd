//! What Redis is asked, and what it answers.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::rate::Rate;
use crate::hex::hex;
use crate::redis::{Cmd, Redis, RedisError, Value, cmd};

const SCRIPT: &str = include_str!("gcra.lua");

/// The name that Redis has for the script: that is what it has SHA-1 for.
static NAME: LazyLock<String> =
    LazyLock::new(|| hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, SCRIPT.as_bytes()).as_ref()));

/// What is wanted of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The fewest tokens that are of use.
    pub(super) cost: u32,
    /// The most.
    pub(super) want: u32,
}

/// What became of a bucket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Taken {
    pub(super) tokens: u32,
    /// In how many microseconds, and parts of one, it is full.
    pub(super) full: i64,
    pub(super) parts: u64,
}

/// Takes tokens from a bucket, in one round trip unless Redis does not know the script yet.
pub(super) async fn take(
    redis: &Redis,
    bucket: &str,
    rate: &Rate,
    wanted: Wanted,
) -> Result<Taken, RedisError> {
    let by_name = command("EVALSHA", &NAME, bucket, rate, wanted);
    let answer = match redis.ask_about(bucket.as_bytes(), &by_name).await {
        Err(RedisError::NoScript) => {
            let whole = command("EVAL", SCRIPT, bucket, rate, wanted);
            redis.ask_about(bucket.as_bytes(), &whole).await?
        }
        answer => answer?,
    };
    read(&answer).ok_or_else(|| {
        RedisError::Refused("it answers with something that is not understood".to_owned())
    })
}

fn command(how: &str, script: &str, bucket: &str, rate: &Rate, wanted: Wanted) -> Cmd {
    let Wanted { cost, want } = wanted;
    let ((whole, part), (fill, fills)) = (rate.token(), rate.fill());
    let mut command = cmd(how);
    command.arg(script).arg(1).arg(bucket).arg(rate.parts()).arg(whole).arg(part);
    command.arg(fill).arg(fills).arg(cost).arg(want);
    command
}

fn read(answer: &Value) -> Option<Taken> {
    let Value::Array(numbers) = answer else { return None };
    let [Value::Int(tokens), Value::Int(full), Value::Int(parts)] = numbers.as_slice() else {
        return None;
    };
    let parts = u64::try_from(*parts).ok()?;
    Some(Taken { tokens: u32::try_from(*tokens).ok()?, full: *full, parts })
}
