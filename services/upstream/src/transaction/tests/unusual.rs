//! A fence in the middle, statements that failed unnoticed, the database's own settings.

use countersign_delivery::ports::messages::Messages as _;
use countersign_launcher::wait_until;
use countersign_testkit::build::{incarnation, upstream};
use sea_orm::{ConnectionTrait as _, DbBackend, Statement, TransactionTrait as _};
use tokio::sync::oneshot;

use super::ground::PATIENCE;
use super::{Failed, Ground, on_both, place, row, sent};
use crate::config::UpstreamSection;
use crate::send::Outcome;
use crate::stage::{an_order, section};
use crate::transaction::TransactionError;

on_both!(
    a_process_that_was_fenced_cannot_commit,
    a_savepoint_that_outlives_the_work_makes_no_false_promise,
    a_failure_that_the_work_does_not_mention_is_no_half_commit
);

async fn a_process_that_was_fenced_cannot_commit(ground: Ground) {
    let process = ground.start();
    assert!(matches!(process.upstream.send(an_order("before")).await, Outcome::Confirmed(_)));
    let messages = ground.database.messages();
    let taken_for_dead = messages.heartbeats(&upstream("shop")).await.unwrap().remove(0).incarnation;
    messages.fence(taken_for_dead).await.unwrap();
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            row(tx.connection(), "a").await?;
            for _ in 0..2 {
                let refused = tx.send(an_order("a")).await.unwrap_err();
                assert!(refused.is_transient(), "{refused}");
            }
            Ok::<_, Failed>(())
        })
    });
    let refused = work.await.unwrap_err();
    assert!(matches!(&refused, TransactionError::RolledBack(refusal) if refusal.is_transient()), "{refused}");
    assert_eq!(ground.business().await, Vec::<String>::new());
    // Trying again helps: under another incarnation.
    let again = process.upstream.transaction(|tx| Box::pin(async move { place(tx, "a").await })).await.unwrap();
    let (id, outcomes) = again.confirmed().await;
    assert!(matches!(&outcomes[..], [Outcome::Confirmed(_)]), "{outcomes:?}");
    assert_eq!(ground.business().await, ["a"]);
    assert!(ground.delivered().contains(&id.to_string()));
}

async fn a_savepoint_that_outlives_the_work_makes_no_false_promise(ground: Ground) {
    let process = ground.start_with(UpstreamSection { heartbeat_ms: 50, commit_wait_ms: 300, ..section() });
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            place(tx, "a").await?;
            tx.connection().begin().await.map_err(|error| error.to_string())
        })
    });
    // What is sent as COMMIT only ends the savepoint; the transaction ends when the caller lets go of it.
    let unknown = work.await.unwrap_err();
    assert!(matches!(unknown, TransactionError::Unknown(_)), "{unknown}");
    ground.watermark_reaches(2).await;
    assert_eq!((ground.business().await.len(), ground.delivered().len()), (0, 0));
    assert!(matches!(process.upstream.send(an_order("next")).await, Outcome::Confirmed(_)));
}

async fn a_failure_that_the_work_does_not_mention_is_no_half_commit(ground: Ground) {
    let process = ground.start();
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            place(tx, "a").await?;
            assert!(row(tx.connection(), "a").await.is_err(), "the name is taken");
            Ok::<_, Failed>(())
        })
    });
    // PostgreSQL gives the whole transaction up, and would answer COMMIT as if it had not; SQLite only the statement.
    let committed = work.await.is_ok();
    assert_eq!(committed, ground.url.starts_with("sqlite"));
    let expected = usize::from(committed);
    assert_eq!((ground.business().await.len(), ground.stored().await.len()), (expected, expected));
    ground.watermark_reaches(2).await;
    assert_eq!(ground.delivered().len(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn business_statements_run_under_the_servers_own_settings() {
    let ground = Ground::postgres("settings").await;
    let process = ground.start();
    let shown = async |connection: &sea_orm::DatabaseTransaction| -> String {
        let query = "SELECT current_setting('enable_seqscan') || current_setting('idle_in_transaction_session_timeout') AS shown";
        let row = connection.query_one_raw(Statement::from_string(DbBackend::Postgres, query)).await.unwrap().unwrap();
        row.try_get("", "shown").unwrap()
    };
    let theirs = ground.session().await.begin().await.unwrap();
    assert_eq!(shown(&theirs).await, "on0");
    let work = process.upstream.transaction(|tx| Box::pin(async move { Ok::<_, Failed>(shown(tx.connection()).await) }));
    assert_eq!(work.await.unwrap().value, "on10s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_waits_for_an_open_transaction_and_its_successor_sees_what_it_committed() {
    let ground = Ground::postgres("fence_waits").await;
    let process = ground.start();
    assert!(matches!(process.upstream.send(an_order("before")).await, Outcome::Confirmed(_)));
    let messages = ground.database.messages();
    let own = messages.heartbeats(&upstream("shop")).await.unwrap().remove(0).incarnation;
    let (fencer, watch) = (messages.clone(), ground.session().await);
    let (waits, fence_waits) = oneshot::channel();
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let id = sent(tx, "a").await?;
            let fencing = tokio::spawn(async move { fencer.fence(own).await });
            fence_waits.await.map_err(|error| error.to_string())?;
            Ok::<_, Failed>((id, fencing))
        })
    });
    let watching = async {
        let query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE 'UPDATE countersign_incarnation%'";
        let reached = wait_until("the fence to wait", PATIENCE, async || {
            watch.query_one_raw(Statement::from_string(DbBackend::Postgres, query)).await.unwrap().is_some()
        });
        reached.await.unwrap();
        waits.send(()).unwrap();
    };
    let (committed, ()) = tokio::join!(work, watching);
    let ((id, fencing), _) = committed.unwrap().confirmed().await;
    fencing.await.unwrap().unwrap();
    assert!(ground.stored().await.contains(&id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_adopted_in_the_middle_cannot_commit() {
    let ground = Ground::postgres("adopted").await;
    // It does not look at its heartbeat again while this test lasts.
    let process = ground.start_with(UpstreamSection { heartbeat_ms: 60_000, lease_ms: 180_000, ..section() });
    assert!(matches!(process.upstream.send(an_order("before")).await, Outcome::Confirmed(_)));
    let messages = ground.database.messages();
    let (adopted, is_adopted) = oneshot::channel();
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            row(tx.connection(), "a").await?;
            is_adopted.await.map_err(|error| error.to_string())?;
            assert!(tx.send(an_order("a")).await.unwrap_err().is_transient());
            Ok::<_, Failed>(())
        })
    });
    let adopting = async {
        let claimed = wait_until("the claim", PATIENCE, async || {
            // A beat may come between the look and the claim.
            let seen = messages.heartbeats(&upstream("shop")).await.unwrap().remove(0);
            messages.adopt(&seen, incarnation(99)).await.unwrap() && messages.fence(seen.incarnation).await.is_ok()
        });
        claimed.await.unwrap();
        adopted.send(()).unwrap();
    };
    let (refused, ()) = tokio::join!(work, adopting);
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, TransactionError::RolledBack(refusal) if refusal.is_transient()), "{refused}");
    assert_eq!(ground.business().await, Vec::<String>::new());
}
