//! Whether Redis is of use again, though nobody asks for anything: otherwise those who ask
//! next would be the ones to find out, by being turned away.

use std::pin::Pin;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::circuit::{LOOK, Way};
use super::common::Circuits;
use super::limiter::{Bucket, Inner};
use super::script::Wanted;

/// Of so many buckets one is looked for that is where another is.
const BUCKETS: u128 = 1_000;

type Looks = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Has Redis asked about a bucket of nobody's, where this one is, until it is of use.
pub(super) fn begin(inner: &Arc<Inner>, bucket: &Bucket) {
    let (Ok(runtime), Some(node)) = (Handle::try_current(), inner.limits.node(&inner.name(bucket)))
    else {
        return;
    };
    if inner.circuits.of(node).is_looked_after() {
        return;
    }
    let Some(nobodys) = beside(inner, bucket, node) else { return };
    if inner.circuits.of(node).begins_to_look() {
        let looks: Looks = Box::pin(looks(Arc::downgrade(inner), nobodys, node));
        runtime.spawn(looks);
    }
}

/// A bucket of nobody's on the same node. Whatever would be refused of the other is of this
/// one, too: it is of the same limit, and is written to.
fn beside(inner: &Inner, bucket: &Bucket, node: usize) -> Option<Bucket> {
    let mut buckets = (0..BUCKETS).map(|digest| Bucket { digest, ..*bucket });
    buckets.find(|bucket| inner.limits.node(&inner.name(bucket)) == Some(node))
}

async fn looks(limiter: Weak<Inner>, bucket: Bucket, node: usize) {
    loop {
        tokio::time::sleep(LOOK).await;
        // A limit that a reload has taken away has nobody to look for.
        let Some(inner) = limiter.upgrade() else { return };
        let name = inner.name(&bucket);
        let is_open = || inner.circuits(&name).is_some_and(|circuits| circuits.is_open());
        if !is_open() {
            let circuit = inner.circuits.of(node);
            circuit.looks_no_more();
            // Another outage that began before found somebody looking.
            if is_open() && circuit.begins_to_look() {
                continue;
            }
            return;
        }
        let looks = |circuits: &Circuits<'_>| circuits.way(inner.now()) == Way::Looks;
        if inner.limits.redis().reaches(name.as_bytes())
            && inner.circuits(&name).is_some_and(|circuits| looks(&circuits))
        {
            inner.flying(&bucket, None, 0).fly(Wanted { cost: 1, want: 1 }, 1).await;
        }
    }
}
