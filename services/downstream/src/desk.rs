//! Claims, made in batches: one round trip for all that are started together, one for all that end while the one before is under way.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Stop, Tasks};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, Claimed, Claims, Held};
use countersign_telemetry::names;
use tokio::sync::oneshot;

use crate::batcher::{Batcher, Limits};

/// Between two tries of a call whose answer was lost or that must succeed.
const PAUSE: Duration = Duration::from_millis(500);
/// Round trips of one kind under way at a time: what is asked for meanwhile shares the next.
const CALLS: usize = 1;

/// How long claims live.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A claim ends so long after it was made or renewed, milliseconds.
    pub lease_ms: u64,
    /// A completed message is known for so long, milliseconds.
    pub retention_ms: u64,
}

/// Where claims are made, completed and given back. Clones share their round trips.
#[derive(Clone)]
pub struct Desk {
    claim: Batcher<Claim, Option<Claimed>>,
    complete: Batcher<Claim, Held>,
    release: Batcher<Claim, Held>,
    inner: Arc<Inner>,
}

/// A claim that is being made.
pub struct Claiming {
    /// What is claimed.
    pub claim: Claim,
    answered: oneshot::Receiver<Option<Claimed>>,
}

struct Inner {
    claims: Arc<dyn Claims>,
    times: Times,
}

impl Desk {
    /// Opens the desk: three workers that end with it. Claims that fail close their gate by themselves ([`crate::guard::watched`]).
    #[must_use]
    pub fn open(tasks: &Tasks, stop: &Stop, claims: Arc<dyn Claims>, times: Times, max_batch: usize) -> Self {
        let inner = Arc::new(Inner { claims, times });
        let limits = Limits { max_batch, linger: Duration::ZERO, enough: 1, calls: CALLS };
        let (one, two, three) = (inner.clone(), inner.clone(), inner.clone());
        Self {
            claim: Batcher::start(tasks, stop, "claim", limits, move |batch| one.clone().claim_all(batch)),
            complete: Batcher::start(tasks, stop, "complete", limits, move |batch| two.clone().complete_all(batch)),
            release: Batcher::start(tasks, stop, "release", limits, move |batch| three.clone().release_all(batch)),
            inner,
        }
    }

    /// Claims. None: the record is away and nothing was claimed; the gate is closed.
    pub async fn claim(&self, claim: Claim) -> Option<Claimed> {
        counted(self.claim.ask(claim).await.flatten())
    }

    /// Claims all of these in one round trip, which the returned future sends on its way. Each is answered by itself.
    pub fn claim_together(&self, claims: Vec<Claim>) -> (Vec<Claiming>, impl Future<Output = ()> + use<>) {
        let (mut requests, mut claiming) = (Vec::with_capacity(claims.len()), Vec::with_capacity(claims.len()));
        for claim in claims {
            let (answer, answered) = oneshot::channel();
            requests.push((claim.clone(), answer));
            claiming.push(Claiming { claim, answered });
        }
        let door = self.claim.clone();
        (claiming, async move { door.ask_together(requests).await })
    }

    /// Marks as done, however long the record is away. None at hard stop.
    pub async fn complete(&self, claim: Claim) -> Option<Held> {
        self.complete.ask(claim).await
    }

    /// Gives back, however long the record is away. None at hard stop.
    pub async fn release(&self, claim: Claim) -> Option<Held> {
        self.release.ask(claim).await
    }

    /// Extends all these leases once, in one round trip; a record that is away closes the gate.
    pub async fn renew(&self, claims: &[Claim]) {
        drop(self.inner.claims.renew(claims, self.inner.times.lease_ms).await);
    }
}

impl Claiming {
    /// As [`Desk::claim`].
    pub async fn claimed(self) -> Option<Claimed> {
        counted(self.answered.await.ok().flatten())
    }
}

fn counted(claimed: Option<Claimed>) -> Option<Claimed> {
    metrics::counter!(names::DEDUP_TOTAL, "result" => claimed.as_ref().map_or(RESULTS[6], word)).increment(1);
    claimed
}

/// What can become of a claim; the last word is for one that was not made.
pub(crate) const RESULTS: [&str; 7] = ["fresh", "own", "forgotten", "done", "conflict", "held", "unknown"];

const fn word(claimed: &Claimed) -> &'static str {
    match claimed {
        Claimed::Fresh { .. } => RESULTS[0],
        Claimed::Interrupted { .. } => RESULTS[1],
        Claimed::Forgotten { .. } => RESULTS[2],
        Claimed::Done => RESULTS[3],
        Claimed::Conflict => RESULTS[4],
        Claimed::Held { .. } => RESULTS[5],
    }
}

impl Inner {
    /// A lost answer is asked for again with the same tokens; only what certainly was not claimed is given up.
    async fn claim_all(self: Arc<Self>, batch: Vec<Claim>) -> Vec<Option<Claimed>> {
        let mut certain = true;
        loop {
            match self.claims.claim(&batch, self.times.lease_ms).await {
                Ok(answers) => return answers.into_iter().map(Some).collect(),
                Err(error) => {
                    certain = certain && !matches!(error, PortError::OutcomeUnknown(..));
                    if certain {
                        return vec![None; batch.len()];
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn complete_all(self: Arc<Self>, batch: Vec<Claim>) -> Vec<Held> {
        loop {
            if let Ok(answers) = self.claims.complete(&batch, self.times.retention_ms).await {
                return answers;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn release_all(self: Arc<Self>, batch: Vec<Claim>) -> Vec<Held> {
        loop {
            if let Ok(answers) = self.claims.release(&batch).await {
                return answers;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
