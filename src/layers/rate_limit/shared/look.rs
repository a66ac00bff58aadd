//! Whether Redis is of use again, though nobody asks for anything: otherwise those who ask
//! next would be the ones to find out, by being turned away.

use std::pin::Pin;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::circuit::{LOOK, Way};
use super::limiter::{Bucket, Inner};
use super::script::Wanted;

/// Of so many buckets one is looked for that is where another is.
const BUCKETS: u128 = 1_000;

type Looks = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Has Redis asked about a bucket of nobody's, where this one is, until it is of use.
pub(super) fn begin(inner: &Arc<Inner>, bucket: &Bucket) {
    let (Ok(runtime), Some(nobodys)) = (Handle::try_current(), beside(inner, bucket)) else {
        return;
    };
    let looks: Looks = Box::pin(looks(Arc::downgrade(inner), nobodys));
    runtime.spawn(looks);
}

/// A bucket of nobody's on the same node. Whatever would be refused of the other is of this
/// one, too: it is of the same limit, and is written to.
fn beside(inner: &Inner, bucket: &Bucket) -> Option<Bucket> {
    let redis = inner.limits.redis();
    let node = redis.node_of(inner.name(bucket).as_bytes())?;
    let mut buckets = (0..BUCKETS).map(|digest| Bucket { digest, ..*bucket });
    buckets.find(|bucket| redis.node_of(inner.name(bucket).as_bytes()) == Some(node))
}

async fn looks(limiter: Weak<Inner>, bucket: Bucket) {
    loop {
        tokio::time::sleep(LOOK).await;
        // A limit that a reload has taken away has nobody to look for.
        let Some(inner) = limiter.upgrade() else { return };
        let name = inner.name(&bucket);
        let Some(circuits) = inner.circuits(&name) else { return };
        if !circuits.is_open() {
            return;
        }
        if inner.limits.redis().reaches(name.as_bytes()) && circuits.way(inner.now()) == Way::Looks
        {
            inner.flying(&bucket, None, 0).fly(Wanted { cost: 1, want: 1 }, 1).await;
        }
    }
}
