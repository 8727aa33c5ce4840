//! What it costs to read many messages for reconciliation, and what that does to inserts beside it, on both databases: without the pause
//! after each look, and with it. Figures, not promises; run it with
//! `target/debug/with-servers postgres -- cargo nextest run -p countersign-store --run-ignored only -E 'test(stored_cost)' --no-capture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use countersign_delivery::ports::messages::{Messages, Numbered};
use countersign_delivery::ports::stored::Stored;
use countersign_delivery::reconcile::{Sums, Window, minute_of};
use countersign_delivery::{Message, MessageId, Seq, Timestamp};
use countersign_store::SqlMessages;
use countersign_testkit::build::{a_message_with, incarnation, upstream};

use crate::cost::{Pace, measure};
use crate::support::Ground;

/// What is stored: the ids stand for one message a millisecond.
const STORED: u64 = 200_000;
/// A row's body, bytes.
const BODY: usize = 300;
/// Rows of one look, as upstream looks.
const LOOK: u32 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes minutes"]
async fn on_sqlite() {
    of(&Ground::sqlite().await, "sums of messages on SQLite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes minutes"]
async fn on_postgres() {
    of(&Ground::postgres("stored_cost").await, "sums of messages on PostgreSQL").await;
}

async fn of(ground: &Ground, what: &str) {
    let messages = ground.opened().await;
    for first in (1..=STORED).step_by(256) {
        insert(messages.clone(), first, (first + 256).min(STORED + 1) - first).await;
    }
    let next = Arc::new(AtomicU64::new(STORED + 1));
    let read = |pace| Box::pin(sum_up(messages.clone(), pace)) as _;
    let write = || Box::pin(insert(messages.clone(), next.fetch_add(1, Ordering::Relaxed), 1)) as _;
    measure(what, STORED, read, write).await;
}

async fn insert(messages: SqlMessages, first: u64, count: u64) {
    let body = "x".repeat(BODY);
    let message = |n| {
        let sent_at = Timestamp::default().plus_millis(n);
        Message { id: MessageId::at(incarnation(1), Seq(n), sent_at), sent_at, ..a_message_with(n, &body) }
    };
    let rows: Vec<_> = (first..first + count).map(|n| Numbered { message: message(n), seq: Seq(n) }).collect();
    messages.insert(incarnation(1), &rows).await.unwrap();
}

/// Sums by subscription and minute, as upstream makes them; answers how many messages.
async fn sum_up(messages: SqlMessages, pace: Pace) -> u64 {
    let window = Window { since: Timestamp::default(), until: Timestamp::default().plus_millis(86_400_000) };
    let (mut sums, mut after) = (Sums::new(), None);
    loop {
        let began = Instant::now();
        let looked = messages.stored(&upstream("shop"), window, after, LOOK).await.unwrap();
        for row in &looked.rows {
            for subscription in &row.required {
                let minutes = sums.entry(subscription.clone()).or_default();
                minutes.entry(minute_of(row.id.minted_at())).or_default().add(row.id, &row.fingerprint);
            }
        }
        after = looked.next;
        if after.is_none() {
            break;
        }
        pace.pause(began).await;
    }
    sums.values().flat_map(|minutes| minutes.values().map(countersign_delivery::digest::Digest::count)).sum()
}
