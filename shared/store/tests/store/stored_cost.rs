//! What it costs to read a day's messages for reconciliation, on both databases. Figures, not promises; run it with
//! `target/debug/with-servers postgres -- cargo nextest run -p countersign-store --run-ignored only -E 'test(stored_cost)' --no-capture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign_delivery::ports::messages::{Messages, Numbered};
use countersign_delivery::ports::stored::Stored;
use countersign_delivery::reconcile::{Sums, Window, minute_of};
use countersign_delivery::{Message, Timestamp};
use countersign_store::SqlMessages;
use countersign_testkit::build::{a_message_with, incarnation, message_id, upstream};

use crate::support::{Ground, numbered};

/// What is stored: the ids stand for one message a millisecond.
const STORED: u64 = 1_000_000;
/// A row's body, bytes.
const BODY: usize = 300;
/// Rows of one look, as upstream looks.
const LOOK: u32 = 2_000;
/// Inserts that are timed without anything beside them.
const ALONE: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes minutes"]
async fn on_sqlite() {
    measure(&Ground::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes minutes"]
async fn on_postgres() {
    measure(&Ground::postgres("stored_cost").await).await;
}

async fn measure(ground: &Ground) {
    let messages = ground.opened().await;
    let body = "x".repeat(BODY);
    for first in (1..=STORED).step_by(256) {
        insert(&messages, first, (first + 256).min(STORED + 1) - first, &body).await;
    }
    let mut alone = Vec::new();
    for n in 1..=ALONE {
        alone.push(insert(&messages, STORED + n, 1, &body).await);
    }
    let (read, stop) = (messages.clone(), Arc::new(AtomicBool::new(false)));
    let reading = tokio::spawn({
        let stop = stop.clone();
        async move {
            let taken = sum_up(&read).await;
            stop.store(true, Ordering::Release);
            taken
        }
    });
    let (mut beside, mut next) = (Vec::new(), STORED + ALONE + 1);
    while !stop.load(Ordering::Acquire) {
        beside.push(insert(&messages, next, 1, &body).await);
        next += 1;
    }
    let (rows, took) = reading.await.unwrap();
    assert!(rows >= STORED, "{rows} rows");
    println!("{rows} messages summed up in {:.1} s: {:.0} a second", took.as_secs_f64(), per_second(rows, took));
    let count = beside.len();
    println!(
        "an insert of one: {:.2} ms alone, {:.2} ms beside it ({count} of them), medians",
        median_ms(alone),
        median_ms(beside)
    );
}

/// Inserts some messages; answers how long it took.
async fn insert(messages: &SqlMessages, first: u64, count: u64, body: &str) -> Duration {
    let message = |n| Message { id: message_id(n), ..a_message_with(n, body) };
    let rows: Vec<_> = (first..first + count).map(|n| Numbered { message: message(n), ..numbered(n) }).collect();
    let started = Instant::now();
    messages.insert(incarnation(1), &rows).await.unwrap();
    started.elapsed()
}

/// Sums by subscription and minute, as upstream makes them; how many messages, and how long it took.
async fn sum_up(messages: &SqlMessages) -> (u64, Duration) {
    let window = Window { since: Timestamp::default(), until: Timestamp::default().plus_millis(86_400_000) };
    let (mut sums, mut after, started) = (Sums::new(), None, Instant::now());
    loop {
        let page = messages.stored(&upstream("shop"), window, after, LOOK).await.unwrap();
        for row in &page.rows {
            for subscription in &row.required {
                let minutes = sums.entry(subscription.clone()).or_default();
                minutes.entry(minute_of(row.id.minted_at())).or_default().add(row.id, &row.fingerprint);
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let counts = sums.values().flat_map(|minutes| minutes.values().map(countersign_delivery::digest::Digest::count));
    (counts.sum(), started.elapsed())
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(rows: u64, took: Duration) -> f64 {
    rows as f64 / took.as_secs_f64()
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}
