//! What it costs callback to read many signatures for reconciliation, and what that does to receipts recorded beside it, on both databases:
//! without the pause after each page, and with it. Figures, not promises; run it with
//! `target/debug/with-servers postgres -- cargo nextest run -p countersign-store --run-ignored only -E 'test(signed_cost)' --no-capture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey};
use countersign_delivery::ports::reconciliation::Reconciliation;
use countersign_delivery::reconcile::{Sums, Window, minute_of};
use countersign_delivery::state::Event;
use countersign_delivery::{Outcome, Receipt, Timestamp};
use countersign_store::{SqlDeliveries, SqlReconciliation};
use countersign_testkit::build::{a_message_with, a_receipt_of, subscription};

use crate::cost::{Pace, measure};
use crate::support::Ground;

/// What is signed: the ids stand for one message a millisecond.
const SIGNED: u64 = 200_000;
/// Deliveries of one page, as callback reads.
const PAGE: u32 = 5_000;
/// Receipts that are recorded at once.
const BATCH: u64 = 256;
/// When a delivery is overdue, milliseconds; none of these is.
const OVERDUE_MS: u64 = 3_600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes minutes"]
async fn on_sqlite() {
    of(&Ground::sqlite().await, "sums of signatures on SQLite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes minutes"]
async fn on_postgres() {
    of(&Ground::postgres("signed_cost").await, "sums of signatures on PostgreSQL").await;
}

async fn of(ground: &Ground, what: &str) {
    let (deliveries, books) = (ground.database.deliveries(OVERDUE_MS), ground.database.reconciliation());
    for first in (1..=SIGNED).step_by(usize::try_from(BATCH).unwrap()) {
        record(deliveries.clone(), first, BATCH.min(SIGNED + 1 - first)).await;
    }
    let next = Arc::new(AtomicU64::new(SIGNED + 1));
    let read = |pace| Box::pin(sum_up(books.clone(), pace)) as _;
    let write = || Box::pin(record(deliveries.clone(), next.fetch_add(1, Ordering::Relaxed), 1)) as _;
    measure(what, SIGNED, read, write).await;
}

async fn record(deliveries: SqlDeliveries, first: u64, count: u64) {
    let receipt = |n| a_receipt_of(&a_message_with(n, "an order"), &subscription("inventory"), Outcome::Done);
    let receipts: Vec<Receipt> = (first..first + count).map(receipt).collect();
    let changes: Vec<Change<'_>> = receipts.iter().map(signed).collect();
    for applied in deliveries.apply(&changes).await.unwrap() {
        applied.unwrap();
    }
}

fn signed(receipt: &Receipt) -> Change<'_> {
    let key = DeliveryKey { message_id: receipt.message_id, subscription: receipt.subscription.clone() };
    Change { key, event: Event::Signed(receipt) }
}

/// Sums by subscription and minute, as callback makes them; answers how many deliveries.
async fn sum_up(books: SqlReconciliation, pace: Pace) -> u64 {
    let window = Window { since: Timestamp::default(), until: Timestamp::default().plus_millis(86_400_000) };
    let (mut sums, mut after) = (Sums::new(), None);
    loop {
        let began = Instant::now();
        let signed = books.signatures(window, after.as_ref(), PAGE).await.unwrap();
        for one in signed.iter().filter(|one| one.done) {
            let minutes = sums.entry(one.key.subscription.clone()).or_default();
            let minute = minute_of(one.key.message_id.minted_at());
            minutes.entry(minute).or_default().add(one.key.message_id, &one.fingerprint);
        }
        if signed.len() < usize::try_from(PAGE).unwrap() {
            break;
        }
        after = signed.into_iter().last().map(|last| last.key);
        pace.pause(began).await;
    }
    sums.values().flat_map(|minutes| minutes.values().map(countersign_delivery::digest::Digest::count)).sum()
}
