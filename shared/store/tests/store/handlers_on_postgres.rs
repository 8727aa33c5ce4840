//! Handlers' transactions that fail, freeze, or end without an answer, on a real PostgreSQL.

use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::{Claim, Claimed, Claims};
use countersign_store::{Committed, Database, Taking, TransactionLimits};
use sea_orm::{ConnectionTrait, TransactionTrait};
use tokio::time::timeout;

use crate::handlers::{IMPATIENT, LIMITS, act, claim, committed, effects, take, with_effects};
use crate::relay::{Commit, Relay};
use crate::support::{Ground, PATIENCE, terminate, waiting};

#[tokio::test]
async fn a_transaction_that_has_failed_is_not_taken_for_committed() {
    let ground = Ground::postgres("failed").await;
    let (inbox, one) = (with_effects(&ground).await, claim(1, "genuine", "a"));
    let transaction = take(&inbox, &one).await;
    act(&transaction).await;
    let swallowed = transaction.connection().execute_unprepared("INSERT INTO effect VALUES (NULL)").await;
    assert!(swallowed.is_err(), "the handler goes on all the same");
    let answer = transaction.commit().await;
    assert!(matches!(answer, Committed::RolledBack(_)), "{answer:?}");
    assert_eq!((effects(&ground).await, inbox.find(&[one.key]).await.unwrap()), (0, vec![None]));
}

#[tokio::test]
async fn a_commit_that_is_refused_is_rolled_back() {
    let ground = Ground::postgres("deferred").await;
    let (inbox, one) = (with_effects(&ground).await, claim(1, "genuine", "a"));
    let session = ground.session().await;
    session.execute_unprepared("ALTER TABLE effect ADD CONSTRAINT once UNIQUE (n) DEFERRABLE INITIALLY DEFERRED").await.unwrap();
    let transaction = take(&inbox, &one).await;
    act(&transaction).await;
    act(&transaction).await;
    let answer = transaction.commit().await;
    assert!(matches!(answer, Committed::RolledBack(PortError::Refused(..))), "{answer:?}");
    assert_eq!(effects(&ground).await, 0);
    committed(take(&inbox, &one).await).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_out_by_its_row() {
    let ground = Ground::postgres("lost").await;
    let (inbox, relay) = (with_effects(&ground).await, Relay::before(&ground.url).await);
    let through = Database::connect(relay.url(&ground.url).as_str()).await.unwrap().inbox();
    for (n, becomes) in [(1, Commit::LosesItsAnswer), (2, Commit::NeverArrives)] {
        let one = claim(n, "genuine", "a");
        let transaction = take(&through, &one).await;
        act(&transaction).await;
        relay.next_commit(becomes);
        let answer = transaction.commit().await;
        assert!(relay.has_broken());
        let found = inbox.find(std::slice::from_ref(&one.key)).await.unwrap();
        let arrived = becomes == Commit::LosesItsAnswer;
        assert_eq!(matches!(answer, Committed::Yes), arrived, "{answer:?}");
        assert_eq!(matches!(answer, Committed::RolledBack(_)), !arrived, "{answer:?}");
        assert_eq!(found, [arrived.then_some(one.key.fingerprint)]);
        assert_eq!(effects(&ground).await, 1);
    }
}

#[tokio::test]
async fn a_session_that_ends_in_its_commit_is_rolled_back_and_its_row_free() {
    let ground = Ground::postgres("ended").await;
    let (inbox, one, watch) = (with_effects(&ground).await, claim(1, "genuine", "a"), ground.session().await);
    // A deferred trigger runs inside COMMIT, and waits there for a lock that this test holds.
    let trigger = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$; \
                CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON effect DEFERRABLE INITIALLY DEFERRED \
                FOR EACH ROW EXECUTE FUNCTION hold()";
    watch.execute_unprepared(trigger).await.unwrap();
    let held = ground.session().await.begin().await.unwrap();
    held.execute_unprepared("SELECT pg_advisory_xact_lock(7)").await.unwrap();
    let transaction = take(&inbox, &one).await;
    act(&transaction).await;
    let committing = tokio::spawn(transaction.commit());
    let pid = waiting(&watch, "COMMIT%").await;
    terminate(&watch, pid).await;
    let answer = committing.await.unwrap();
    assert!(matches!(answer, Committed::RolledBack(PortError::Unavailable(..))), "{answer:?}");
    held.rollback().await.unwrap();
    assert_eq!(effects(&ground).await, 0);
    committed(take(&inbox, &one).await).await;
}

#[tokio::test]
async fn a_savepoint_that_outlives_the_handler_is_not_taken_for_a_commit() {
    let ground = Ground::postgres("savepoint").await;
    let (inbox, one, watch) = (with_effects(&ground).await, claim(1, "genuine", "a"), ground.session().await);
    let transaction = take(&inbox, &one).await;
    act(&transaction).await;
    let outliving = transaction.connection().begin().await.unwrap();
    let committing = tokio::spawn(transaction.commit());
    waiting(&watch, "INSERT INTO countersign_inbox%").await;
    drop(outliving);
    let answer = committing.await.unwrap();
    assert!(matches!(answer, Committed::RolledBack(_)), "{answer:?}");
    assert_eq!(effects(&ground).await, 0);
    committed(take(&inbox, &one).await).await;
}

#[tokio::test]
async fn a_frozen_owner_loses_the_row_and_learns_of_it() {
    let ground = Ground::postgres("frozen").await;
    let (inbox, one) = (with_effects(&ground).await, claim(1, "genuine", "a"));
    let limits = TransactionLimits { idle_timeout_ms: 300, ..LIMITS };
    let Taking::Ours(frozen) = inbox.begin(&one, limits).await.unwrap() else { panic!("the row is free") };
    act(&frozen).await;
    // As after SIGSTOP, it does nothing more; the other one waits for the server to end its session.
    let other = take(&ground.second(4).await.inbox(), &one).await;
    act(&other).await;
    committed(other).await;
    let answer = frozen.commit().await;
    assert!(matches!(answer, Committed::RolledBack(PortError::Unavailable(..))), "{answer:?}");
    assert_eq!(effects(&ground).await, 1);
}

#[tokio::test]
async fn claims_do_not_wait_for_the_transaction_that_has_the_row() {
    let ground = Ground::postgres("claims").await;
    let (inbox, one) = (with_effects(&ground).await, claim(1, "genuine", "a"));
    let transaction = take(&inbox, &one).await;
    let claimed = timeout(Duration::from_millis(LIMITS.lock_timeout_ms), async {
        let first = inbox.claim(std::slice::from_ref(&one), 0).await.unwrap();
        let second = inbox.claim(&[Claim { token: "b".into(), ..one.clone() }], 0).await.unwrap();
        let released = inbox.release(std::slice::from_ref(&one)).await.unwrap();
        (first, second, released)
    });
    let (first, second, _) = claimed.await.unwrap();
    assert_eq!((first, second), (vec![Claimed::Fresh { starts: 1 }], vec![Claimed::Interrupted { starts: 2, crashes: 1 }]));
    committed(transaction).await;
}

#[tokio::test]
async fn handlers_wait_for_a_turn_and_leave_connections_to_claims() {
    let ground = Ground::postgres("turns").await;
    with_effects(&ground).await;
    let inbox = ground.second(4).await.inbox();
    assert_eq!(inbox.at_a_time(), 2);
    let (one, two) = (take(&inbox, &claim(1, "genuine", "a")).await, take(&inbox, &claim(2, "genuine", "a")).await);
    let third = inbox.begin(&claim(3, "genuine", "a"), IMPATIENT).await.unwrap();
    assert!(matches!(third, Taking::Busy), "{third:?}");
    assert_eq!(inbox.claim(&[claim(3, "genuine", "a")], 0).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
    let waiting = tokio::spawn(async move { take(&inbox, &claim(3, "genuine", "a")).await });
    committed(one).await;
    let three = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    committed(three).await;
    committed(two).await;
}

#[tokio::test]
async fn a_statement_that_waits_too_long_or_runs_too_long_ends() {
    let ground = Ground::postgres("limits").await;
    let inbox = with_effects(&ground).await;
    let limits = TransactionLimits { lock_timeout_ms: 100, statement_timeout_ms: 300, ..LIMITS };
    let Taking::Ours(transaction) = inbox.begin(&claim(1, "genuine", "a"), limits).await.unwrap() else { panic!("it is free") };
    let slow = timeout(PATIENCE, transaction.connection().execute_unprepared("SELECT pg_sleep(60)")).await.unwrap();
    assert!(slow.unwrap_err().to_string().contains("statement timeout"));
    let answer = transaction.commit().await;
    assert!(matches!(answer, Committed::RolledBack(_)), "{answer:?}");
    committed(take(&inbox, &claim(1, "genuine", "a")).await).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_not_busy() {
    let ground = Ground::postgres("away").await;
    let (inbox, one, watch) = (ground.impatient().await.inbox(), claim(1, "genuine", "a"), ground.session().await);
    watch.execute_unprepared("DROP TABLE countersign_inbox").await.unwrap();
    let refused = inbox.begin(&one, LIMITS).await;
    assert!(matches!(refused, Err(PortError::Refused(..))), "{refused:?}");
    ground.database.close().await;
    let away = ground.database.inbox().begin(&one, LIMITS).await;
    assert!(matches!(away, Err(PortError::Unavailable(..))), "{away:?}");
}
