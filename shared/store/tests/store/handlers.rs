//! On both databases: handlers whose transaction holds the message's row.

use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims};
use countersign_delivery::{Fingerprint, Timestamp};
use countersign_store::{Committed, InboxTransaction, SqlInbox, Taking, TransactionLimits};
use countersign_testkit::build::{message_id, subscription};
use futures::future::join_all;
use sea_orm::{ConnectionTrait, Statement, TransactionTrait};
use tokio::sync::Barrier;

use crate::both::on_both;
use crate::support::Ground;

const HANDLERS: usize = 8;
pub const LIMITS: TransactionLimits =
    TransactionLimits { lock_timeout_ms: 5_000, statement_timeout_ms: 10_000, idle_timeout_ms: 20_000 };
/// Waits next to nothing for a row or a turn.
pub const IMPATIENT: TransactionLimits = TransactionLimits { lock_timeout_ms: 100, ..LIMITS };

on_both!(
    of_many_owners_at_once_one_has_the_effect,
    what_is_committed_is_done_and_what_is_not_leaves_no_trace,
    a_handler_that_panics_leaves_no_trace,
    another_fingerprint_conflicts_with_what_is_done_and_with_nothing_else,
    a_row_that_another_transaction_has_is_busy_and_then_free,
    savepoints_end_within_the_transaction,
    a_handler_that_ends_the_transaction_by_itself_is_found_out,
    starts_of_what_is_done_are_forgotten_with_it_and_the_rest_when_they_are_old,
    crossing_batches_of_claims_neither_deadlock_nor_miscount,
);

/// Message `n` as `body`, come again.
pub fn claim(n: u64, body: &str, token: &str) -> Claim {
    let fingerprint = Fingerprint::of("order.created", "text/plain", body.as_bytes());
    let key = ClaimKey { subscription: subscription("inventory"), message_id: message_id(n), fingerprint, effect_epoch: 0 };
    Claim { key, token: token.into(), epoch: 0, again: true }
}

/// The inbox, and a table of effects beside it.
pub async fn with_effects(ground: &Ground) -> SqlInbox {
    ground.session().await.execute_unprepared("CREATE TABLE effect (n INTEGER NOT NULL)").await.unwrap();
    ground.database.inbox()
}

/// How many effects there are.
pub async fn effects(ground: &Ground) -> i64 {
    let session = ground.session().await;
    let statement = Statement::from_string(session.get_database_backend(), "SELECT count(*) AS n FROM effect");
    session.query_one_raw(statement).await.unwrap().unwrap().try_get("", "n").unwrap()
}

pub async fn take(inbox: &SqlInbox, claim: &Claim) -> InboxTransaction {
    match inbox.begin(claim, LIMITS).await.unwrap() {
        Taking::Ours(transaction) => transaction,
        other => panic!("the row is free: {other:?}"),
    }
}

pub async fn act(transaction: &InboxTransaction) {
    transaction.connection().execute_unprepared("INSERT INTO effect VALUES (1)").await.unwrap();
}

pub async fn committed(transaction: InboxTransaction) {
    let answer = transaction.commit().await;
    assert!(matches!(answer, Committed::Yes), "{answer:?}");
}

async fn of_many_owners_at_once_one_has_the_effect(ground: Ground) {
    const MESSAGES: u64 = 5;
    let (inbox, other) = (with_effects(&ground).await, ground.database.clone());
    for n in 1..=MESSAGES {
        let start = Arc::new(Barrier::new(HANDLERS));
        let owners = (0..HANDLERS).map(|owner| {
            let (inbox, start) = (if owner % 2 == 0 { inbox.clone() } else { other.inbox() }, start.clone());
            tokio::spawn(async move {
                start.wait().await;
                match inbox.begin(&claim(n, "genuine", &owner.to_string()), LIMITS).await.unwrap() {
                    Taking::Ours(transaction) => {
                        act(&transaction).await;
                        committed(transaction).await;
                        true
                    }
                    Taking::Done => false,
                    other => panic!("nobody waits for long: {other:?}"),
                }
            })
        });
        let had_it = join_all(owners).await.into_iter().filter(|had_it| *had_it.as_ref().unwrap()).count();
        assert_eq!(had_it, 1);
    }
    assert_eq!(effects(&ground).await, MESSAGES.cast_signed());
}

async fn what_is_committed_is_done_and_what_is_not_leaves_no_trace(ground: Ground) {
    let (inbox, one) = (with_effects(&ground).await, claim(1, "genuine", "a"));
    for rolled_back in [true, false] {
        let transaction = take(&inbox, &one).await;
        act(&transaction).await;
        if rolled_back {
            transaction.roll_back().await;
        } else {
            drop(transaction);
        }
        assert_eq!(inbox.find(std::slice::from_ref(&one.key)).await.unwrap(), [None]);
        assert_eq!(effects(&ground).await, 0);
    }
    let transaction = take(&inbox, &one).await;
    act(&transaction).await;
    committed(transaction).await;
    assert_eq!(inbox.find(std::slice::from_ref(&one.key)).await.unwrap(), [Some(one.key.fingerprint.clone())]);
    let again = inbox.begin(&one, LIMITS).await.unwrap();
    assert!(matches!(again, Taking::Done), "{again:?}");
    assert_eq!(effects(&ground).await, 1);
}

async fn a_handler_that_panics_leaves_no_trace(ground: Ground) {
    let (inbox, one) = (with_effects(&ground).await, claim(1, "genuine", "a"));
    let (owner, claimed) = (inbox.clone(), one.clone());
    let handling = tokio::spawn(async move {
        let transaction = take(&owner, &claimed).await;
        act(&transaction).await;
        panic!("as handlers do");
    });
    assert!(handling.await.unwrap_err().is_panic());
    committed(take(&inbox, &one).await).await;
    assert_eq!(effects(&ground).await, 0);
}

async fn another_fingerprint_conflicts_with_what_is_done_and_with_nothing_else(ground: Ground) {
    let (inbox, genuine, impostor) = (with_effects(&ground).await, claim(1, "genuine", "a"), claim(1, "impostor", "x"));
    // Its transaction was rolled back, so it had no effect; but whoever claims is warned.
    assert_eq!(inbox.claim(std::slice::from_ref(&impostor), 0).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
    take(&inbox, &impostor).await.roll_back().await;
    assert_eq!(inbox.claim(std::slice::from_ref(&genuine), 0).await.unwrap(), [Claimed::Conflict]);
    committed(take(&inbox, &genuine).await).await;
    let late = inbox.begin(&impostor, LIMITS).await.unwrap();
    assert!(matches!(late, Taking::Conflict), "{late:?}");
    let answers = inbox.claim(&[impostor, genuine], 0).await.unwrap();
    assert_eq!(answers, [Claimed::Conflict, Claimed::Done], "a start that is open does not hide what is done");
}

async fn a_row_that_another_transaction_has_is_busy_and_then_free(ground: Ground) {
    let inbox = with_effects(&ground).await;
    for body in ["genuine", "impostor"] {
        let transaction = take(&inbox, &claim(1, "genuine", "a")).await;
        let waiting = inbox.begin(&claim(1, body, "b"), IMPATIENT).await.unwrap();
        assert!(matches!(waiting, Taking::Busy), "{waiting:?}");
        transaction.roll_back().await;
    }
    committed(take(&inbox, &claim(1, "genuine", "b")).await).await;
}

async fn savepoints_end_within_the_transaction(ground: Ground) {
    let (inbox, one) = (with_effects(&ground).await, claim(1, "genuine", "a"));
    let transaction = take(&inbox, &one).await;
    let undone = transaction.connection().begin().await.unwrap();
    undone.execute_unprepared("INSERT INTO effect VALUES (1), (2), (3)").await.unwrap();
    undone.rollback().await.unwrap();
    let kept = transaction.connection().begin().await.unwrap();
    kept.execute_unprepared("INSERT INTO effect VALUES (4)").await.unwrap();
    kept.commit().await.unwrap();
    committed(transaction).await;
    assert_eq!(effects(&ground).await, 1);
}

async fn a_handler_that_ends_the_transaction_by_itself_is_found_out(ground: Ground) {
    let (inbox, one) = (with_effects(&ground).await, claim(1, "genuine", "a"));
    for statement in ["ROLLBACK", "ROLLBACK; BEGIN"] {
        let transaction = take(&inbox, &one).await;
        act(&transaction).await;
        transaction.connection().execute_unprepared(statement).await.unwrap();
        if statement.ends_with("BEGIN") {
            act(&transaction).await;
        }
        let answer = transaction.commit().await;
        assert!(matches!(answer, Committed::RolledBack(_)), "{statement}: {answer:?}");
        assert_eq!(effects(&ground).await, 0, "{statement}");
    }
    let transaction = take(&inbox, &one).await;
    transaction.connection().execute_unprepared("ROLLBACK").await.unwrap();
    transaction.roll_back().await;
    // The connection is as good as before: what follows is committed, and rolled back.
    let transaction = take(&inbox, &one).await;
    act(&transaction).await;
    transaction.connection().execute_unprepared("COMMIT").await.unwrap();
    committed(transaction).await;
    assert_eq!(effects(&ground).await, 1);
    let transaction = take(&inbox, &claim(2, "genuine", "a")).await;
    act(&transaction).await;
    transaction.roll_back().await;
    committed(take(&inbox, &claim(2, "genuine", "a")).await).await;
    assert_eq!(effects(&ground).await, 1);
}

async fn starts_of_what_is_done_are_forgotten_with_it_and_the_rest_when_they_are_old(ground: Ground) {
    const HOUR_MS: u64 = 3_600_000;
    let (inbox, now) = (with_effects(&ground).await, Timestamp::from_millis(i64::MAX));
    let both = [claim(1, "genuine", "a"), claim(2, "genuine", "a")];
    inbox.claim(&both, 0).await.unwrap();
    committed(take(&inbox, &both[0]).await).await;
    inbox.complete(&both, 0).await.unwrap();
    let session = ground.session().await;
    let left = Statement::from_string(session.get_database_backend(), "SELECT count(*) AS n FROM countersign_inbox_start");
    let left = async || session.query_one_raw(left.clone()).await.unwrap().unwrap().try_get::<i64>("", "n").unwrap();
    assert_eq!(left().await, 1, "only what is done is closed by it");
    let forget = async |older_than_ms| inbox.forget(&subscription("inventory"), older_than_ms, now, 100).await.unwrap();
    assert_eq!(forget(HOUR_MS).await, 0, "both were minted long ago, and begun just now");
    tokio::time::timeout(crate::support::PATIENCE, async {
        while left().await > 0 {
            forget(0).await;
        }
    })
    .await
    .unwrap();
    let answers = inbox.claim(&both, 0).await.unwrap();
    assert_eq!(answers, [Claimed::Fresh { starts: 1 }, Claimed::Fresh { starts: 1 }], "the row is forgotten as well");
}

async fn crossing_batches_of_claims_neither_deadlock_nor_miscount(ground: Ground) {
    const MESSAGES: u64 = 50;
    let (inbox, start) = (ground.database.inbox(), Arc::new(Barrier::new(HANDLERS)));
    let batch = |token: &str| (1..=MESSAGES).map(|n| claim(n, "genuine", token)).collect::<Vec<_>>();
    let claiming = (0..HANDLERS).map(|owner| {
        let (inbox, start, mut batch) = (inbox.clone(), start.clone(), batch(&owner.to_string()));
        if owner % 2 == 0 {
            batch.reverse();
        }
        tokio::spawn(async move {
            start.wait().await;
            assert_eq!(inbox.claim(&batch, 0).await.unwrap().len(), batch.len());
            if owner % 2 == 0 {
                inbox
                    .record(
                        &batch
                            .iter()
                            .map(|claim| ClaimKey { subscription: subscription("audit"), ..claim.key.clone() })
                            .collect::<Vec<_>>(),
                    )
                    .await
                    .unwrap();
            }
        })
    });
    tokio::time::timeout(Duration::from_mins(1), join_all(claiming)).await.unwrap().into_iter().for_each(|end| end.unwrap());
    let reading: Vec<_> = batch("reader").into_iter().map(|claim| Claim { again: false, ..claim }).collect();
    let (starts, crashes) = (u32::try_from(HANDLERS).unwrap() + 1, u32::try_from(HANDLERS).unwrap());
    let expected = vec![Claimed::Interrupted { starts, crashes }; reading.len()];
    assert_eq!(inbox.claim(&reading, 0).await.unwrap(), expected);
}
