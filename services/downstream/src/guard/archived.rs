//! Guard `redis+archive`: claims in Redis, and behind them a database in which everything done is written before it is signed for.
//!
//! What Redis has lost is found there: each batch of claims is looked up by one query. What is done is written there first and marked in
//! Redis then; what only Redis knows, because it was done under guard `redis`, is written when it comes again.
//!
//! **Invariant:** a mark in Redis made by this guard, an answer *done*, a receipt and an ack each imply a row in the archive.

use async_trait::async_trait;
use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::Fingerprint;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};

use super::count_recognised;

/// Claims with an archive behind.
#[derive(Clone, Debug)]
pub struct Archived<C, A> {
    claims: C,
    archive: A,
    /// What is found in the archive is marked in front for so long, milliseconds.
    retention_ms: u64,
}

/// What an answer of the claims and the word of the archive come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The answer stands.
    AsAnswered,
    /// Done, which only the archive knows.
    Recognised,
    /// Done, which only the claims know.
    Unwritten,
    /// It is done under another fingerprint.
    Conflict,
}

fn judge(key: &ClaimKey, answer: &Claimed, found: Option<&Fingerprint>) -> Found {
    match found {
        Some(found) if is_ours(answer) && *found == key.fingerprint => Found::Recognised,
        Some(_) if is_ours(answer) => Found::Conflict,
        None if *answer == Claimed::Done => Found::Unwritten,
        _ => Found::AsAnswered,
    }
}

/// Whether the claim was made.
const fn is_ours(answer: &Claimed) -> bool {
    matches!(answer, Claimed::Fresh { .. } | Claimed::Forgotten { .. } | Claimed::Interrupted { .. })
}

impl<C: Claims, A: Archive> Archived<C, A> {
    /// `claims` in front, `archive` behind.
    pub const fn new(claims: C, archive: A, retention_ms: u64) -> Self {
        Self { claims, archive, retention_ms }
    }

    /// Corrects the answers by one look-up in the archive, and puts both records right.
    async fn correct(&self, claims: &[Claim], answers: &mut [Claimed]) -> Result<(), PortError> {
        let asked = |answer: &Claimed| is_ours(answer) || *answer == Claimed::Done;
        let at: Vec<usize> = (0..answers.len()).filter(|at| asked(&answers[*at])).collect();
        if at.is_empty() {
            return Ok(());
        }
        let found = self.archive.find(&keys_of(at.iter().map(|at| &claims[*at]))).await?;
        let (mut recognised, mut unwritten, mut conflicts) = (Vec::new(), Vec::new(), Vec::new());
        for (at, found) in at.into_iter().zip(found) {
            let claim = &claims[at];
            match judge(&claim.key, &answers[at], found.as_ref()) {
                Found::AsAnswered => {}
                Found::Recognised => {
                    answers[at] = Claimed::Done;
                    recognised.push(claim.clone());
                }
                Found::Unwritten => unwritten.push(claim.key.clone()),
                Found::Conflict => {
                    answers[at] = Claimed::Conflict;
                    conflicts.push(claim.clone());
                }
            }
        }
        if !unwritten.is_empty() {
            self.archive.record(&unwritten).await?;
        }
        if !recognised.is_empty() {
            self.claims.complete(&recognised, self.retention_ms).await?;
            for claim in &recognised {
                count_recognised(&claim.key.subscription);
            }
        }
        if !conflicts.is_empty() {
            self.claims.release(&conflicts).await?;
        }
        Ok(())
    }
}

fn keys_of<'a>(claims: impl Iterator<Item = &'a Claim>) -> Vec<ClaimKey> {
    claims.map(|claim| claim.key.clone()).collect()
}

#[async_trait]
impl<C: Claims, A: Archive> Claims for Archived<C, A> {
    /// Without an answer from the archive nothing may be handled: the claims are given back as far as that is possible, and else end with
    /// their leases.
    async fn claim(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Claimed>, PortError> {
        let mut answers = self.claims.claim(claims, lease_ms).await?;
        let ours = claims.iter().zip(&answers).filter(|(_, answer)| is_ours(answer));
        let ours: Vec<Claim> = ours.map(|(claim, _)| claim.clone()).collect();
        let corrected = self.correct(claims, &mut answers).await;
        if corrected.is_err() && !ours.is_empty() {
            drop(self.claims.release(&ours).await);
        }
        corrected.map(|()| answers)
    }

    async fn renew(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Held>, PortError> {
        self.claims.renew(claims, lease_ms).await
    }

    async fn complete(&self, claims: &[Claim], retention_ms: u64) -> Result<Vec<Held>, PortError> {
        self.archive.record(&keys_of(claims.iter())).await?;
        failpoint(Failpoint::DownstreamAfterArchive);
        self.claims.complete(claims, retention_ms).await
    }

    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
        self.claims.release(claims).await
    }
}
