//! On both databases: migrations, and many callbacks at one delivery.

use std::sync::Arc;

use countersign_boot::Health;
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey};
use countersign_delivery::ports::messages::{Expiry, Inserted, Insertion, Messages, Numbered};
use countersign_delivery::state::{Command, Event, Illegal, ResendReason};
use countersign_delivery::{Delivery, Message, Outcome, Receipt};
use countersign_store::{Config, Database, SqlDeliveries, Tables};
use countersign_testkit::build::{a_message_with, a_receipt_of, facts_of, incarnation, message_id, subscription, upstream};
use futures::future::join_all;
use sea_orm::ConnectionTrait as _;
use tokio::sync::Barrier;

use crate::support::{Ground, PATIENCE, numbered};

const CALLBACKS: usize = 8;
const OVERDUE_MS: u64 = 600_000;

/// One test on each database.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::support::Ground::sqlite().await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::support::Ground::postgres(stringify!($name)).await).await;
            })*
        }
    };
}
pub(crate) use on_both;

on_both!(
    migrating_again_and_from_many_replicas_at_once_changes_nothing,
    tables_that_are_outdated_are_waited_for_by_who_may_not_migrate_them,
    one_of_many_callbacks_orders_a_resend,
    crossing_batches_neither_deadlock_nor_lose_a_word,
    a_batch_larger_than_one_statement_is_stored_whole,
    a_detail_that_no_text_column_takes_is_stored_all_the_same,
    the_databases_clock_moves_with_it,
    a_deleter_whose_clock_is_wrong_deletes_nothing_early,
);

async fn migrating_again_and_from_many_replicas_at_once_changes_nothing(ground: Ground) {
    let messages = ground.opened().await;
    messages.insert(incarnation(1), &[numbered(1)]).await.unwrap();
    let database = &ground.database;
    for result in join_all((0..4).map(|_| database.migrate_messages())).await {
        result.unwrap();
    }
    for result in join_all((0..4).map(|_| database.migrate_deliveries())).await {
        result.unwrap();
    }
    for result in join_all((0..4).map(|_| database.migrate_inbox())).await {
        result.unwrap();
    }
    assert_eq!(messages.get(&[message_id(1)]).await.unwrap().len(), 1);
    database.ping().await.unwrap();
}

async fn tables_that_are_outdated_are_waited_for_by_who_may_not_migrate_them(ground: Ground) {
    let url = if ground.url.starts_with("sqlite:") {
        format!("{}.new", ground.url)
    } else {
        ground.session().await.execute_unprepared("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
        ground.url.clone()
    };
    let config = Config { migrate: false, ..Config::from(url.as_str()) };
    let health = Health::default();
    let (shown, mut seen) = (health.dependency("database"), health.watch());
    let told = seen.wait_for(|readiness| {
        let reason = readiness.dependencies["database"].reason.as_deref().unwrap_or_default();
        reason.contains("downstream's tables are not up to date, m001_inbox is missing") && reason.contains("--migrate")
    });
    let opened = async { Database::open(&config, Tables::Inbox, &shown).await.unwrap() };
    let migrated = async {
        tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
        Database::bring_up_to_date(&config, Tables::Inbox).await.unwrap();
    };
    let (database, ()) = tokio::join!(opened, migrated);
    database.ping().await.unwrap();
}

async fn one_of_many_callbacks_orders_a_resend(ground: Ground) {
    let deliveries = ground.database.deliveries(OVERDUE_MS);
    for (n, spoken_of_before) in [(1, false), (2, true)] {
        let message = a_message_with(n, "lost");
        let key = DeliveryKey { message_id: message.id, subscription: subscription("inventory") };
        if spoken_of_before {
            let receipt = a_receipt_of(&message, &key.subscription, Outcome::Processing { lease_ms: 1 });
            deliveries.apply(&signed(std::slice::from_ref(&receipt))).await.unwrap();
        }
        let answers = order_at_once(&deliveries, &message, &key).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.is_ok());
        assert_eq!((won.len(), lost.len()), (1, CALLBACKS - 1), "spoken of before: {spoken_of_before}");
        assert!(lost.iter().all(|answer| **answer == Err(Illegal::OutOfDate)), "{lost:?}");
        assert_eq!(deliveries.history(&key).await.unwrap().len(), 1, "one order, one line");
        let row = deliveries.look_up(&[key]).await.unwrap().remove(0).unwrap();
        assert!(matches!(row.command, Command::Resending { .. }), "{row:?}");
    }
}

/// Each callback orders the second attempt of the same delivery, having seen it as it stands now.
async fn order_at_once(
    deliveries: &SqlDeliveries,
    message: &Message,
    key: &DeliveryKey,
) -> Vec<Result<Option<Delivery>, Illegal>> {
    let seen = deliveries.look_up(std::slice::from_ref(key)).await.unwrap().remove(0);
    let seen_live_until = seen.and_then(|row| row.live_until);
    let start = Arc::new(Barrier::new(CALLBACKS));
    let callbacks = (0..CALLBACKS).map(|_| {
        let (deliveries, facts, key, start) = (deliveries.clone(), facts_of(message), key.clone(), start.clone());
        tokio::spawn(async move {
            let event = Event::OrderResend {
                facts,
                attempt: Attempt::FIRST.resent(),
                lease_ms: 30_000,
                seen_live_until,
                why: ResendReason::Repeated,
            };
            start.wait().await;
            deliveries.apply(&[Change { key, event }]).await.unwrap().remove(0)
        })
    });
    join_all(callbacks).await.into_iter().map(Result::unwrap).collect()
}

async fn crossing_batches_neither_deadlock_nor_lose_a_word(ground: Ground) {
    let receipts = |outcome: &Outcome| -> Vec<Receipt> {
        let of = |n| a_receipt_of(&a_message_with(n, "crossing"), &subscription("inventory"), outcome.clone());
        (1..=50).map(of).collect()
    };
    let start = Arc::new(Barrier::new(CALLBACKS));
    let deliveries = ground.database.deliveries(OVERDUE_MS);
    let callbacks = (0..CALLBACKS).map(|callback| {
        let (deliveries, start) = (deliveries.clone(), start.clone());
        let mut batch = receipts(if callback == 3 { &Outcome::Done } else { &Outcome::Processing { lease_ms: 1_000 } });
        if callback.is_multiple_of(2) {
            batch.reverse();
        }
        tokio::spawn(async move {
            start.wait().await;
            deliveries.apply(&signed(&batch)).await.unwrap()
        })
    });
    for answers in join_all(callbacks).await {
        assert_eq!(answers.unwrap().len(), 50);
    }
    let keys: Vec<_> = receipts(&Outcome::Done).iter().map(key_of).collect();
    let rows = deliveries.look_up(&keys).await.unwrap();
    assert!(rows.iter().all(|row| row.as_ref().is_some_and(Delivery::is_done)), "{rows:?}");
}

async fn a_batch_larger_than_one_statement_is_stored_whole(ground: Ground) {
    const MANY: u64 = 2_500;
    let messages = ground.opened().await;
    let batch: Vec<_> = (1..=MANY).map(numbered).collect();
    let Insertion::Committed(rows) = messages.insert(incarnation(1), &batch).await.unwrap() else { panic!("it is open") };
    assert!(rows.len() == batch.len() && rows.iter().all(|row| *row == Inserted::Stored));
    let deliveries = ground.database.deliveries(OVERDUE_MS);
    let receipts: Vec<_> =
        batch.iter().map(|row| a_receipt_of(&row.message, &subscription("inventory"), Outcome::Done)).collect();
    for _ in 0..2 {
        let answers = deliveries.apply(&signed(&receipts)).await.unwrap();
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Some(row)) if row.is_done())));
    }
    let found = deliveries.look_up(&receipts.iter().map(key_of).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(found.iter().flatten().count(), batch.len());
}

async fn a_detail_that_no_text_column_takes_is_stored_all_the_same(ground: Ground) {
    let deliveries = ground.database.deliveries(OVERDUE_MS);
    let outcome = Outcome::Failed { reason: countersign_delivery::FailReason::Rejected, detail: "a\0b".into() };
    let receipt = a_receipt_of(&a_message_with(1, "x"), &subscription("inventory"), outcome);
    deliveries.apply(&signed(std::slice::from_ref(&receipt))).await.unwrap();
    let row = deliveries.look_up(&[key_of(&receipt)]).await.unwrap().remove(0).unwrap();
    assert!(
        matches!(&row.signed, countersign_delivery::state::Signed::Failed { detail, .. } if detail == "a\u{fffd}b"),
        "{row:?}"
    );
}

async fn the_databases_clock_moves_with_it(ground: Ground) {
    let deliveries = ground.database.deliveries(OVERDUE_MS);
    let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let first = deliveries.now().await.unwrap();
    let away = i128::from(first.as_millis()).abs_diff(i128::try_from(here).unwrap());
    assert!(away < 2_000, "it runs on this machine, {away} ms away");
    let started = std::time::Instant::now();
    while started.elapsed().as_millis() < 20 {
        tokio::task::yield_now().await;
    }
    assert!(deliveries.now().await.unwrap().millis_since(first) >= 19);
}

fn key_of(receipt: &Receipt) -> DeliveryKey {
    DeliveryKey { message_id: receipt.message_id, subscription: receipt.subscription.clone() }
}

fn signed(receipts: &[Receipt]) -> Vec<Change<'_>> {
    receipts.iter().map(|receipt| Change { key: key_of(receipt), event: Event::Signed(receipt) }).collect()
}

async fn a_deleter_whose_clock_is_wrong_deletes_nothing_early(ground: Ground) {
    const DAY_MS: u64 = 24 * 3_600_000;
    let messages = ground.opened().await;
    let now = ground.database.deliveries(OVERDUE_MS).now().await.unwrap();
    let sent = |n: u64, days: u64| {
        let Numbered { seq, message } = numbered(n);
        Numbered { seq, message: Message { sent_at: now.minus_millis(days * DAY_MS), ..message } }
    };
    messages.insert(incarnation(1), &[sent(1, 3), sent(2, 1)]).await.unwrap();
    messages.close(incarnation(1)).await.unwrap();
    let delete =
        async |now, retention_ms| messages.delete_expired(&upstream("shop"), Expiry { now, retention_ms }, 100).await.unwrap();
    assert_eq!(delete(now.plus_millis(365 * DAY_MS), 2 * DAY_MS).await, 1, "only what is old by the database's clock");
    assert_eq!(delete(now.minus_millis(DAY_MS), DAY_MS).await, 0, "only what is old by its own");
    let left = messages.get(&[message_id(1), message_id(2)]).await.unwrap();
    assert_eq!(left.iter().map(|row| row.message.id).collect::<Vec<_>>(), [message_id(2)]);
}
