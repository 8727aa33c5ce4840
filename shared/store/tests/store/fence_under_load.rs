//! The fence gets through while inserts overlap without end, on a real PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use countersign_delivery::Seq;
use countersign_delivery::ports::messages::{IncarnationState, Insertion, Messages};
use countersign_store::SqlMessages;
use countersign_testkit::build::{incarnation, upstream};
use futures::future::join_all;
use sea_orm::ConnectionTrait;

use crate::support::{Ground, PATIENCE, numbered};

/// Transactions that are open at any time, each holding a share lock of the incarnation's row for [`HOLD_MS`].
const INSERTERS: u32 = 20;
const HOLD_MS: u64 = 100;
/// So many inserts show that the stream is steady.
const STEADY: u64 = 60;
/// How long the fence may take: all that were open end within [`HOLD_MS`]; the rest is for a busy machine.
const BOUND: Duration = Duration::from_secs(3);

/// Each insert takes its time between its lock and its commit.
async fn slow_inserts(ground: &Ground) {
    let slow = format!(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep({}); RETURN NEW; END $$; \
         CREATE TRIGGER linger BEFORE INSERT ON countersign_message FOR EACH ROW EXECUTE FUNCTION linger()",
        Duration::from_millis(HOLD_MS).as_secs_f64()
    );
    ground.session().await.execute_unprepared(&slow).await.unwrap();
}

/// Inserts one message after the other until it is told that it may not; returns the seqs that were stored.
async fn insert_until_fenced(messages: SqlMessages, next: Arc<AtomicU64>, stored: Arc<AtomicU64>) -> Vec<u64> {
    let (mut seqs, started) = (Vec::new(), Instant::now());
    while started.elapsed() < PATIENCE {
        let n = next.fetch_add(1, Ordering::Relaxed);
        match messages.insert(incarnation(1), &[numbered(n)]).await.unwrap() {
            Insertion::Committed(_) => seqs.push(n),
            Insertion::Fenced => return seqs,
        }
        stored.fetch_add(1, Ordering::Relaxed);
    }
    panic!("it was never fenced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_gets_through_an_endless_stream_of_overlapping_inserts() {
    let ground = Ground::postgres("starved").await;
    let messages = ground.opened().await;
    slow_inserts(&ground).await;
    // A pool of their own: the fence is not to wait for a connection.
    let (owner, next, stored) = (ground.second(INSERTERS).await, Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let inserting = (0..INSERTERS).map(|_| tokio::spawn(insert_until_fenced(owner.messages(), next.clone(), stored.clone())));
    let inserting: Vec<_> = inserting.collect();
    let started = Instant::now();
    while stored.load(Ordering::Relaxed) < STEADY {
        assert!(started.elapsed() < PATIENCE, "the stream does not flow");
        tokio::task::yield_now().await;
    }

    let seen = messages.heartbeats(&upstream("shop")).await.unwrap().remove(0);
    let claiming = Instant::now();
    assert!(messages.adopt(&seen, incarnation(2)).await.unwrap());
    messages.fence(incarnation(1)).await.unwrap();
    let took = claiming.elapsed();
    assert!(took < BOUND, "the fence took {took:?}");
    let left = messages.scan(incarnation(1), Seq::FIRST, 10_000).await.unwrap();

    let mut committed: Vec<u64> = join_all(inserting).await.into_iter().flat_map(Result::unwrap).collect();
    committed.sort_unstable();
    assert_eq!(left.iter().map(|row| row.position.seq.0).collect::<Vec<_>>(), committed, "a scan after the fence sees them all");
    let row = messages.heartbeats(&upstream("shop")).await.unwrap().remove(0);
    assert_eq!(row.state, IncarnationState::Fenced);
}
