//! Locks, lost answers and ended sessions, on a real PostgreSQL.

use countersign_delivery::message::Position;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey};
use countersign_delivery::ports::messages::{Entombed, Inserted, Insertion, Messages};
use countersign_delivery::state::Event;
use countersign_delivery::{Outcome, Receipt};
use countersign_store::Database;
use countersign_testkit::build::{a_message_with, a_receipt_of, incarnation, message_id, position, subscription};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, TransactionTrait};

use crate::support::{Ground, numbered, terminate, waiting};

/// Another process's insert of message 1 at place 1, which has not committed yet.
async fn open_insert(ground: &Ground) -> DatabaseTransaction {
    let tx = ground.session().await.begin().await.unwrap();
    open_insert_result(&tx).await.unwrap();
    tx
}

async fn open_insert_result(tx: &impl ConnectionTrait) -> Result<(), DbErr> {
    let Position { incarnation, seq } = position(1, 1);
    let locked = format!("SELECT 1 FROM countersign_incarnation WHERE id = '{incarnation}' FOR SHARE");
    tx.execute_unprepared(&locked).await?;
    let insert = format!(
        "INSERT INTO countersign_message (incarnation, seq, id, sent_at, fingerprint, required, exchange, routing_key, type, \
         content_type, body) VALUES ('{incarnation}', {}, '{}', 0, 'f', 'inventory', 'e', 'k', 't', 'c', 'b')",
        seq.0,
        message_id(1)
    );
    tx.execute_unprepared(&insert).await.map(drop)
}

#[tokio::test]
async fn an_unknown_commit_waits_for_the_open_transaction_and_finds_its_row() {
    let ground = Ground::postgres("entomb_commit").await;
    let messages = ground.opened().await;
    let (tx, watch) = (open_insert(&ground).await, ground.session().await);
    let resolving = tokio::spawn(async move { messages.entomb(position(1, 1)).await });
    waiting(&watch, "INSERT INTO countersign_message%").await;
    tx.commit().await.unwrap();
    let Entombed::Committed(stored) = resolving.await.unwrap().unwrap() else { panic!("it was committed") };
    assert_eq!(stored.message.id, message_id(1));
}

#[tokio::test]
async fn an_unknown_commit_that_rolls_back_leaves_a_tombstone() {
    let ground = Ground::postgres("entomb_rollback").await;
    let messages = ground.opened().await;
    let (tx, watch) = (open_insert(&ground).await, ground.session().await);
    let resolver = messages.clone();
    let resolving = tokio::spawn(async move { resolver.entomb(position(1, 1)).await });
    waiting(&watch, "INSERT INTO countersign_message%").await;
    tx.rollback().await.unwrap();
    assert_eq!(resolving.await.unwrap().unwrap(), Entombed::RolledBack);
    assert!(messages.insert(incarnation(1), &[numbered(1)]).await.is_err(), "its place is taken for good");
}

#[tokio::test]
async fn a_fence_waits_for_an_open_insert_and_is_unavailable_when_it_waits_too_long() {
    let ground = Ground::postgres("fence").await;
    let messages = ground.opened().await;
    let tx = open_insert(&ground).await;
    let impatient = ground.impatient().await.messages();
    let timed_out = impatient.fence(incarnation(1)).await;
    assert!(matches!(timed_out, Err(PortError::Unavailable(..))), "{timed_out:?}");

    let (fencer, watch) = (messages.clone(), ground.session().await);
    let fencing = tokio::spawn(async move { fencer.fence(incarnation(1)).await });
    waiting(&watch, "UPDATE countersign_incarnation%").await;
    tx.commit().await.unwrap();
    fencing.await.unwrap().unwrap();
    assert_eq!(messages.insert(incarnation(1), &[numbered(2)]).await.unwrap(), Insertion::Fenced);
    let left = messages.scan(incarnation(1), countersign_delivery::Seq::FIRST, 10).await.unwrap();
    assert_eq!(left.len(), 1, "the successor sees what was committed before the fence");
}

#[tokio::test]
async fn an_insert_that_waits_for_a_fence_is_fenced() {
    let ground = Ground::postgres("fenced").await;
    let messages = ground.opened().await;
    let (fence, watch) = (ground.session().await.begin().await.unwrap(), ground.session().await);
    fence.execute_unprepared("UPDATE countersign_incarnation SET state = 'fenced'").await.unwrap();
    let inserting = tokio::spawn(async move { messages.insert(incarnation(1), &[numbered(1)]).await });
    waiting(&watch, "WITH fence%").await;
    fence.commit().await.unwrap();
    assert_eq!(inserting.await.unwrap().unwrap(), Insertion::Fenced);
}

#[tokio::test]
async fn a_session_that_ends_before_its_commit_wrote_nothing() {
    let ground = Ground::postgres("terminated").await;
    let messages = ground.opened().await;
    let (tx, watch) = (open_insert(&ground).await, ground.session().await);
    let inserter = messages.clone();
    let inserting = tokio::spawn(async move { inserter.insert(incarnation(1), &[numbered(1)]).await });
    let pid = waiting(&watch, "WITH fence%").await;
    terminate(&watch, pid).await;
    let ended = inserting.await.unwrap();
    assert!(matches!(ended, Err(PortError::Unavailable(..))), "{ended:?}");
    tx.rollback().await.unwrap();
    let again = messages.insert(incarnation(1), &[numbered(1)]).await.unwrap();
    assert_eq!(again, Insertion::Committed(vec![Inserted::Stored]), "the pool has replaced the session");
}

#[tokio::test]
async fn a_session_that_ends_in_its_commit_is_unknown_until_it_is_resolved() {
    let ground = Ground::postgres("unknown").await;
    let messages = ground.opened().await;
    let watch = ground.session().await;
    // A deferred trigger runs inside COMMIT, and waits there for a lock that this test holds.
    watch
        .execute_unprepared(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON countersign_message DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION hold()",
        )
        .await
        .unwrap();
    let held = ground.session().await.begin().await.unwrap();
    held.execute_unprepared("SELECT pg_advisory_xact_lock(7)").await.unwrap();
    let inserter = messages.clone();
    let inserting = tokio::spawn(async move { inserter.insert(incarnation(1), &[numbered(1)]).await });
    let pid = waiting(&watch, "COMMIT%").await;
    terminate(&watch, pid).await;
    let ended = inserting.await.unwrap();
    assert!(matches!(ended, Err(PortError::OutcomeUnknown(..))), "{ended:?}");
    held.rollback().await.unwrap();
    assert_eq!(messages.entomb(position(1, 1)).await.unwrap(), Entombed::RolledBack);
}

#[tokio::test]
async fn a_session_keeps_the_promise_on_a_server_that_would_not() {
    let ground = Ground::postgres("session").await;
    let session = ground.session().await;
    let weaken = "DO $$ BEGIN \
         EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); \
         EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$";
    session.execute_unprepared(weaken).await.unwrap();
    // Whoever inserts under those settings is refused.
    session
        .execute_unprepared(
            "CREATE FUNCTION inspect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF current_setting('synchronous_commit') = 'off' OR current_setting('transaction_isolation') <> 'read committed' \
             OR current_setting('idle_in_transaction_session_timeout') = '0' THEN \
             RAISE EXCEPTION 'weak'; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER inspect BEFORE INSERT ON countersign_message FOR EACH ROW EXECUTE FUNCTION inspect()",
        )
        .await
        .unwrap();
    ground.opened().await;
    let messages = ground.impatient().await.messages();
    let answer = messages.insert(incarnation(1), &[numbered(1)]).await.unwrap();
    assert_eq!(answer, Insertion::Committed(vec![Inserted::Stored]));
    let plain = open_insert_result(&ground.session().await).await.unwrap_err().to_string();
    assert!(plain.contains("weak"), "the trigger looks: {plain}");
}

#[tokio::test]
async fn a_server_that_is_away_is_told_from_one_that_refuses() {
    let ground = Ground::postgres("away").await;
    let nowhere = format!("postgres://countersign@127.0.0.1:{}/postgres", countersign_launcher::free_port().unwrap());
    let away = Database::connect(nowhere.as_str()).await.unwrap_err();
    assert!(away.is_transient(), "{away:?}");
    let wrong = Database::connect(format!("{}_missing", ground.url).as_str()).await.unwrap_err();
    assert!(!wrong.is_transient(), "{wrong:?}");
}

#[tokio::test]
async fn a_receipt_whose_row_another_callback_is_just_writing_is_added_to_that_row() {
    let ground = Ground::postgres("same_receipt").await;
    let (tx, watch) = (ground.session().await.begin().await.unwrap(), ground.session().await);
    let receipts = [1, 2].map(|n| a_receipt_of(&a_message_with(n, "same"), &subscription("inventory"), Outcome::Done));
    let key = |receipt: &Receipt| DeliveryKey { message_id: receipt.message_id, subscription: receipt.subscription.clone() };
    let keys = receipts.each_ref().map(key);
    let fingerprint = uuid::Uuid::from_slice(receipts[0].fingerprint.as_bytes()).unwrap();
    let processing = format!(
        "INSERT INTO countersign_delivery (message_id, sent_at, signed, signed_attempt, command, subscription, state, upstream, fingerprint) \
         VALUES ('{}', 0, 1, 1, 0, 'inventory', 'processing', 'shop', uuid_send('{}'))",
        receipts[0].message_id, fingerprint
    );
    tx.execute_unprepared(&processing).await.unwrap();
    let deliveries = ground.database.deliveries(600_000);
    let (writer, batch) = (deliveries.clone(), receipts.clone());
    let applying = tokio::spawn(async move {
        let changes = batch.each_ref().map(|receipt| Change { key: key(receipt), event: Event::Signed(receipt) });
        writer.apply(&changes).await
    });
    waiting(&watch, "INSERT INTO countersign_delivery%").await;
    tx.commit().await.unwrap();
    let answers = applying.await.unwrap().unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Some(row)) if row.is_done())), "{answers:?}");
    let rows = deliveries.look_up(&keys).await.unwrap();
    assert!(rows.iter().flatten().filter(|row| row.is_done()).count() == 2, "{rows:?}");
}

#[tokio::test]
async fn a_row_that_vanishes_without_a_key_to_explain_it_rolls_the_batch_back() {
    let ground = Ground::postgres("vanished").await;
    let messages = ground.opened().await;
    ground
        .session()
        .await
        .execute_unprepared(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN IF NEW.seq = 2 THEN RETURN NULL; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER swallow BEFORE INSERT ON countersign_message FOR EACH ROW EXECUTE FUNCTION swallow()",
        )
        .await
        .unwrap();
    let refused = messages.insert(incarnation(1), &[numbered(1), numbered(2)]).await;
    assert!(matches!(refused, Err(PortError::Refused(..))), "{refused:?}");
    assert_eq!(messages.get(&[message_id(1), message_id(2)]).await.unwrap(), []);
}
