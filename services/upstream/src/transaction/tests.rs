//! On both real databases, with a broker in memory.

#![allow(clippy::disallowed_methods, reason = "tests have no launch frame: they start tasks themselves")]

mod ends;
mod ground;
mod keys;
mod lost_answer;
mod routes;
mod settled;
mod unusual;

use countersign_delivery::MessageId;
use sea_orm::{ConnectionTrait as _, DatabaseTransaction, TransactionTrait as _};

use crate::send::Outcome;
use crate::stage::an_order;
use crate::transaction::tests::ground::Ground;
use crate::transaction::{Transaction, TransactionError};

/// What the work in these tests fails with.
type Failed = String;

/// One test on each database.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::transaction::tests::ground::Ground::sqlite().await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::transaction::tests::ground::Ground::postgres(stringify!($name)).await).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// A business row and the message about it.
async fn place(tx: &Transaction, name: &str) -> Result<MessageId, Failed> {
    row(tx.connection(), name).await?;
    sent(tx, name).await
}

async fn row(connection: &DatabaseTransaction, name: &str) -> Result<(), Failed> {
    let insert = format!("INSERT INTO business (name) VALUES ('{name}')");
    connection.execute_unprepared(&insert).await.map(drop).map_err(|error| error.to_string())
}

async fn sent(tx: &Transaction, body: &str) -> Result<MessageId, Failed> {
    tx.send(an_order(body)).await.map(|accepted| accepted.id).map_err(|refusal| refusal.to_string())
}

on_both!(
    business_rows_and_messages_are_committed_together,
    a_savepoint_takes_its_messages_with_it_or_leaves_them,
    a_transaction_without_messages_is_one_too,
);

async fn business_rows_and_messages_are_committed_together(ground: Ground) {
    let process = ground.start();
    let committed = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let ids = [place(tx, "a").await?, place(tx, "b").await?];
            // Nobody else sees it yet, the broker least of all.
            tokio::task::yield_now().await;
            Ok::<_, Failed>(ids)
        })
    });
    let committed = committed.await.unwrap();
    assert_eq!(committed.messages().map(|accepted| accepted.id).collect::<Vec<_>>(), committed.value);
    let (ids, outcomes) = committed.confirmed().await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Confirmed(_))), "{outcomes:?}");
    assert_eq!(ground.delivered(), ids.map(|id| id.to_string()));
    assert_eq!(ground.business().await, ["a", "b"]);
    assert_eq!(ground.stored().await, ids);
    ground.watermark_reaches(3).await;
}

async fn a_savepoint_takes_its_messages_with_it_or_leaves_them(ground: Ground) {
    let process = ground.start();
    let committed = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let failed = |error: sea_orm::DbErr| error.to_string();
            let savepoint = tx.connection().begin().await.map_err(failed)?;
            row(&savepoint, "taken back").await?;
            sent(tx, "taken back").await?;
            savepoint.rollback().await.map_err(failed)?;
            let savepoint = tx.connection().begin().await.map_err(failed)?;
            row(&savepoint, "released").await?;
            let released = sent(tx, "released").await?;
            savepoint.commit().await.map_err(failed)?;
            Ok::<_, Failed>([released, place(tx, "plain").await?])
        })
    });
    let (ids, outcomes) = committed.await.unwrap().confirmed().await;
    assert!(matches!(&outcomes[..], [Outcome::Confirmed(_), Outcome::Confirmed(_)]), "{outcomes:?}");
    assert_eq!(ground.delivered(), ids.map(|id| id.to_string()));
    assert_eq!(ground.stored().await, ids);
    assert_eq!(ground.business().await, ["plain", "released"]);
    // The seq of what was taken back holds nothing up, and its place is free.
    ground.watermark_reaches(4).await;
}

async fn a_transaction_without_messages_is_one_too(ground: Ground) {
    let process = ground.start();
    let committed = process.upstream.transaction(|tx| Box::pin(async move { row(tx.connection(), "a").await }));
    assert_eq!(committed.await.unwrap().messages().count(), 0);
    assert_eq!(ground.business().await, ["a"]);
    let refused = process.upstream.transaction(|tx| {
        Box::pin(async move {
            row(tx.connection(), "b").await?;
            Err::<(), _>("no".to_owned())
        })
    });
    assert_eq!(refused.await.unwrap_err(), TransactionError::Work("no".to_owned()));
    assert_eq!(ground.business().await, ["a"]);
}
