//! Claims that note how many each call was about.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, Claimed, Claims, Held};
use countersign_testkit::claims::MemoryClaims;

/// Claims in memory, and the size of each call that was made.
#[derive(Clone)]
pub struct Counting {
    claims: MemoryClaims,
    calls: Arc<Mutex<Vec<(&'static str, usize)>>>,
}

impl Counting {
    pub fn new(claims: MemoryClaims) -> Self {
        Self { claims, calls: Arc::default() }
    }

    /// The sizes of the calls of this kind so far, in order.
    pub fn calls(&self, kind: &str) -> Vec<usize> {
        self.calls.lock().unwrap().iter().filter(|(call, _)| *call == kind).map(|(_, size)| *size).collect()
    }

    async fn note(&self, kind: &'static str, claims: &[Claim]) {
        self.calls.lock().unwrap().push((kind, claims.len()));
        // A server takes its time; meanwhile others may ask.
        tokio::time::sleep(std::time::Duration::from_micros(200)).await;
    }
}

#[async_trait]
impl Claims for Counting {
    async fn claim(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Claimed>, PortError> {
        self.note("claim", claims).await;
        self.claims.claim(claims, lease_ms).await
    }

    async fn renew(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Held>, PortError> {
        self.note("renew", claims).await;
        self.claims.renew(claims, lease_ms).await
    }

    async fn complete(&self, claims: &[Claim], retention_ms: u64) -> Result<Vec<Held>, PortError> {
        self.note("complete", claims).await;
        self.claims.complete(claims, retention_ms).await
    }

    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
        self.note("release", claims).await;
        self.claims.release(claims).await
    }
}
