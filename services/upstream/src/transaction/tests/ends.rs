//! Transactions that end otherwise than by COMMIT: nothing is there, nothing is published, and every place is free again.

use futures::FutureExt as _;
use tokio::sync::oneshot;

use super::{Failed, Ground, on_both, place};
use crate::accept::NewMessage;
use crate::config::UpstreamSection;
use crate::refusal::Refusal;
use crate::send::Outcome;
use crate::stage::{Process, an_order, section};
use crate::transaction::TransactionError;

on_both!(
    work_that_fails_is_rolled_back,
    work_that_panics_is_rolled_back,
    work_that_is_dropped_is_rolled_back,
    work_that_takes_too_long_is_rolled_back,
    a_stopping_process_begins_none,
    more_than_may_be_open_at_a_time_wait_for_a_turn,
    more_messages_than_there_are_places_are_refused,
    more_bytes_than_there_is_room_for_are_refused,
);

/// One place: a second message is only taken when the first one's is free.
fn one_place() -> UpstreamSection {
    UpstreamSection { heartbeat_ms: 50, max_unconfirmed: 1, ..section() }
}

/// Nothing of the transaction is left, and the process goes on.
async fn nothing_is_left(ground: &Ground, process: &Process) {
    assert_eq!(ground.business().await, Vec::<String>::new());
    assert_eq!(ground.stored().await, []);
    let Outcome::Confirmed(next) = process.upstream.send(an_order("next")).await else { panic!("its place is not free") };
    assert_eq!(ground.delivered(), [next.id.to_string()]);
    ground.watermark_reaches(3).await;
}

async fn work_that_fails_is_rolled_back(ground: Ground) {
    let process = ground.start_with(one_place());
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            place(tx, "a").await?;
            Err::<(), _>("no".to_owned())
        })
    });
    assert_eq!(work.await.unwrap_err(), TransactionError::Work("no".to_owned()));
    nothing_is_left(&ground, &process).await;
}

async fn work_that_panics_is_rolled_back(ground: Ground) {
    let process = ground.start_with(one_place());
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            place(tx, "a").await?;
            tx.send(NewMessage::default()).await.expect("a bug of the caller's");
            Ok::<(), Failed>(())
        })
    });
    assert!(std::panic::AssertUnwindSafe(work).catch_unwind().await.is_err());
    nothing_is_left(&ground, &process).await;
}

async fn work_that_is_dropped_is_rolled_back(ground: Ground) {
    let process = ground.start_with(one_place());
    let (sent, is_sent) = oneshot::channel();
    let upstream = process.upstream.clone();
    let task = tokio::spawn(async move {
        let work = upstream.transaction(|tx| {
            Box::pin(async move {
                place(tx, "a").await?;
                sent.send(()).unwrap();
                std::future::pending::<Result<(), Failed>>().await
            })
        });
        work.await.map(drop)
    });
    is_sent.await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    nothing_is_left(&ground, &process).await;
}

async fn work_that_takes_too_long_is_rolled_back(ground: Ground) {
    let process = ground.start_with(UpstreamSection { transaction_timeout_ms: Some(500), ..one_place() });
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            place(tx, "a").await?;
            std::future::pending::<Result<(), Failed>>().await
        })
    });
    let TransactionError::RolledBack(refusal) = work.await.unwrap_err() else { panic!("it is known") };
    assert!(refusal.is_transient() && refusal.to_string().contains("transaction_timeout_ms"), "{refusal}");
    nothing_is_left(&ground, &process).await;
}

async fn a_stopping_process_begins_none(ground: Ground) {
    let process = ground.start();
    process.context.stop.begin_soft();
    let work = process.upstream.transaction(|_| Box::pin(async { Ok::<(), Failed>(()) }));
    let refused = work.await.unwrap_err();
    assert!(matches!(&refused, TransactionError::RolledBack(Refusal::Unavailable(why)) if why.contains("stopping")), "{refused}");
}

async fn more_than_may_be_open_at_a_time_wait_for_a_turn(ground: Ground) {
    let process = ground.start_with(UpstreamSection { max_transactions: 1, ..section() });
    let patient = process.upstream.clone();
    let work = process.upstream.transaction(|_| {
        Box::pin(async move {
            let mut second = Box::pin(patient.transaction(|_| Box::pin(async { Ok::<(), Failed>(()) })));
            Ok::<_, Failed>(futures::poll!(second.as_mut()).is_pending())
        })
    });
    assert!(work.await.unwrap().value, "there is no turn for the one within the other");
    let next = process.upstream.transaction(|_| Box::pin(async { Ok::<(), Failed>(()) })).await;
    assert!(next.is_ok(), "its turn is free again: {next:?}");

    let none = UpstreamSection { max_transactions: 0, transaction_timeout_ms: Some(100), ..section() };
    let full = ground.start_with(none);
    let refused = full.upstream.transaction(|_| Box::pin(async { Ok::<(), Failed>(()) })).await.unwrap_err();
    let TransactionError::RolledBack(Refusal::Exhausted { what, .. }) = &refused else { panic!("{refused}") };
    assert!(what.contains("max_transactions"), "{what}");
}

async fn more_messages_than_there_are_places_are_refused(ground: Ground) {
    let process = ground.start_with(one_place());
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            place(tx, "a").await?;
            let refused = tx.send(an_order("b")).await.unwrap_err();
            assert!(matches!(&refused, Refusal::Exhausted { what, .. } if what.contains("max_unconfirmed")), "{refused}");
            Ok::<_, Failed>(())
        })
    });
    // It is not poisoned: what was sent before is committed.
    let ((), outcomes) = work.await.unwrap().confirmed().await;
    assert!(matches!(&outcomes[..], [Outcome::Confirmed(_)]), "{outcomes:?}");
    assert_eq!(ground.business().await, ["a"]);
}

async fn more_bytes_than_there_is_room_for_are_refused(ground: Ground) {
    let process = ground.start_with(UpstreamSection { max_queued_bytes: 2_048, ..section() });
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            tx.send(an_order(&"a".repeat(1_500))).await.unwrap();
            let refused = tx.send(an_order("b")).await.unwrap_err();
            assert!(matches!(&refused, Refusal::Exhausted { what, .. } if what.contains("max_queued_bytes")), "{refused}");
            Ok::<_, Failed>(())
        })
    });
    let ((), outcomes) = work.await.unwrap().confirmed().await;
    assert!(matches!(&outcomes[..], [Outcome::Confirmed(_)]), "{outcomes:?}");
    assert!(matches!(process.upstream.send(an_order("b")).await, Outcome::Confirmed(_)), "the room is free again");
}
