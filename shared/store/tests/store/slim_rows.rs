//! On both databases: rows that leave out what their ids and labels say, and rows from before they did.

use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Expiry, Inserted, Insertion, Messages, Numbered};
use countersign_delivery::ports::stored::Stored;
use countersign_delivery::reconcile::{MINUTE_MS, Window};
use countersign_delivery::{IdempotencyKey, IncarnationId, Message, MessageId, Position, Seq, Timestamp};
use countersign_store::SqlMessages;
use countersign_testkit::build::{a_message_with, incarnation, message_id, position, upstream};
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use crate::both::on_both;
use crate::support::{Ground, numbered};

on_both!(
    rows_name_their_label_once_it_is_met_again,
    a_callers_transaction_names_labels_and_writes_none_while_it_is_open,
    a_label_that_is_gone_is_told,
    who_names_a_label_that_is_lost_says_it_himself_from_then_on,
    there_is_a_bound_to_labels,
    what_an_older_version_wrote_and_goes_on_writing_is_found_and_deleted,
);

/// How many rows meet a condition.
async fn count(ground: &Ground, rows: &str) -> i64 {
    let session = ground.session().await;
    let query = Statement::from_string(session.get_database_backend(), format!("SELECT COUNT(*) AS count FROM {rows}"));
    session.query_one_raw(query).await.unwrap().unwrap().try_get("", "count").unwrap()
}

async fn insert(messages: &SqlMessages, seq: u64) {
    let stored = messages.insert(incarnation(1), &[numbered(seq)]).await.unwrap();
    assert_eq!(stored, Insertion::Committed(vec![Inserted::Stored]));
}

async fn rows_name_their_label_once_it_is_met_again(ground: Ground) {
    let messages = ground.opened().await;
    for seq in 1..=5 {
        insert(&messages, seq).await;
    }
    assert_eq!(count(&ground, "countersign_message WHERE label IS NOT NULL AND exchange IS NULL").await, 3);
    assert_eq!(count(&ground, "countersign_message WHERE label IS NULL AND exchange IS NOT NULL").await, 2);
    let once = Message { routing_key: "order.4711".into(), ..a_message_with(6, "x") };
    messages.insert(incarnation(1), &[Numbered { seq: Seq(6), message: once }]).await.unwrap();
    assert_eq!(count(&ground, "countersign_label").await, 1);
    if ground.url.starts_with("postgres") {
        let other = ground.second(2).await.messages();
        let rows = other.scan(incarnation(1), Seq::FIRST, 10).await.unwrap();
        assert_eq!(rows.len(), 6);
        assert_eq!(rows[4].message, numbered(5).message);
        insert(&other, 7).await;
        assert_eq!(count(&ground, "countersign_message WHERE label IS NOT NULL").await, 4, "it knows what it has read");
    }
}

async fn a_callers_transaction_names_labels_and_writes_none_while_it_is_open(ground: Ground) {
    ground.opened().await;
    for seq in 1..=4 {
        let transaction = ground.database.enlist(Duration::from_secs(5), 1_000).await.unwrap();
        let stored = transaction.insert(incarnation(1), &[numbered(seq)]).await.unwrap();
        assert_eq!(stored, Insertion::Committed(vec![Inserted::Stored]));
        assert_eq!(transaction.present(&[message_id(seq), message_id(99)]).await.unwrap().len(), 1);
        if seq == 2 { transaction.rollback().await.unwrap() } else { transaction.commit().await.unwrap() }
    }
    assert_eq!(count(&ground, "countersign_label").await, 1);
    assert_eq!(count(&ground, "countersign_message WHERE label IS NOT NULL").await, 2, "the third and the fourth");
    let rows = ground.database.messages().scan(incarnation(1), Seq::FIRST, 10).await.unwrap();
    assert_eq!(rows.into_iter().map(|row| row.message).collect::<Vec<_>>(), [1, 3, 4].map(|n| numbered(n).message));
}

async fn a_label_that_is_gone_is_told(ground: Ground) {
    let messages = ground.opened().await;
    for seq in 1..=3 {
        insert(&messages, seq).await;
    }
    ground.session().await.execute_unprepared("DELETE FROM countersign_label").await.unwrap();
    assert_eq!(messages.scan(incarnation(1), Seq::FIRST, 10).await.unwrap().len(), 3, "who knows it does not ask");
    if ground.url.starts_with("postgres") {
        let error = ground.second(2).await.messages().scan(incarnation(1), Seq::FIRST, 10).await.unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("is not in countersign_label"), "{why}");
    }
}

/// As after a standby took over that had not got the label yet.
async fn who_names_a_label_that_is_lost_says_it_himself_from_then_on(ground: Ground) {
    let messages = ground.opened().await;
    let keyed = |seq: u64| {
        let idempotency_key = Some(IdempotencyKey::new(&format!("order {seq}")).unwrap());
        Numbered { seq: Seq(seq), message: Message { idempotency_key, ..numbered(seq).message } }
    };
    for (round, row) in [(0, numbered as fn(u64) -> Numbered), (1, keyed)] {
        let seq = |n: u64| round * 100 + n;
        for n in 1..=3 {
            messages.insert(incarnation(1), &[row(seq(n))]).await.unwrap();
        }
        let session = ground.session().await;
        session.execute_unprepared("DELETE FROM countersign_message WHERE label IS NOT NULL").await.unwrap();
        session.execute_unprepared("DELETE FROM countersign_label").await.unwrap();
        drop(session);
        let batch = [row(seq(4)), row(seq(5))];
        let doubted = messages.insert(incarnation(1), &batch).await;
        assert!(matches!(doubted, Err(PortError::Unavailable(..))), "{doubted:?}");
        let stored = messages.insert(incarnation(1), &batch).await.unwrap();
        assert_eq!(stored, Insertion::Committed(vec![Inserted::Stored, Inserted::Stored]));
        assert_eq!(count(&ground, "countersign_message WHERE label IS NOT NULL").await, 0);
        messages.insert(incarnation(1), &[row(seq(6))]).await.unwrap();
        messages.insert(incarnation(1), &[row(seq(7))]).await.unwrap();
        assert!(count(&ground, "countersign_message WHERE label IS NOT NULL").await > 0, "and it is written again");
    }
}

async fn there_is_a_bound_to_labels(ground: Ground) {
    let messages = ground.opened().await;
    let of = |n: u64, round: u64| {
        let seq = round * 3_000 + n;
        let message = Message { routing_key: format!("order.{n}"), ..a_message_with(seq, "x") };
        Numbered { seq: Seq(seq), message }
    };
    for part in 0..5 {
        for round in 0..3 {
            let batch: Vec<_> = (1..=250).map(|n| of(part * 250 + n, round)).collect();
            messages.insert(incarnation(1), &batch).await.unwrap();
        }
    }
    assert_eq!(count(&ground, "countersign_label").await, 1_000);
    assert_eq!(count(&ground, "countersign_message WHERE label IS NOT NULL").await, 1_000);
    let rows = messages.scan(incarnation(1), Seq::FIRST, 5_000).await.unwrap();
    assert_eq!(rows.len(), 3 * 5 * 250);
    let differs = rows.iter().find(|row| row.message.routing_key != format!("order.{}", row.position.seq.0 % 3_000));
    assert_eq!(differs, None);
}

/// The tables of the steps before labels, without what they do not need here.
const BEFORE: [&str; 8] = [
    "DROP TABLE countersign_label",
    "DROP TABLE countersign_message",
    "DROP TABLE countersign_incarnation",
    "CREATE TABLE countersign_incarnation (id {uuid} NOT NULL PRIMARY KEY, upstream {name} NOT NULL, state {name} NOT NULL)",
    "CREATE TABLE countersign_message (incarnation {uuid} NOT NULL, seq bigint NOT NULL, id {uuid} UNIQUE, sent_at bigint NOT NULL, \
     fingerprint {bytes} NOT NULL, idempotency_key {name}, required {name} NOT NULL, exchange {name} NOT NULL, routing_key {name} NOT NULL, \
     type {name} NOT NULL, content_type {name} NOT NULL, headers {name}, traceparent {name}, tracestate {name}, body {bytes} NOT NULL, \
     status smallint, tries smallint, due_at bigint, reason {name}, PRIMARY KEY (incarnation, seq))",
    "CREATE UNIQUE INDEX countersign_message_key ON countersign_message (idempotency_key) WHERE idempotency_key IS NOT NULL",
    "DELETE FROM countersign_migrations_messages WHERE version = 'm004_labels'",
    "INSERT INTO countersign_heartbeat (incarnation, counter, watermark, settled_until) VALUES ({incarnation}, 1, 1, 0)",
];

/// What an older version does.
async fn older(ground: &Ground, statements: &[&str]) {
    let session = ground.session().await;
    let postgres = session.get_database_backend() == DbBackend::Postgres;
    let bytes = |bytes: &[u8]| {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        if postgres { format!("'\\x{hex}'") } else { format!("x'{hex}'") }
    };
    let id = |uuid: uuid::Uuid| if postgres { format!("'{uuid}'") } else { bytes(uuid.as_bytes()) };
    let message = numbered(1).message;
    let words = [
        ("{uuid}", if postgres { "uuid" } else { "BLOB" }.to_owned()),
        ("{name}", if postgres { "text COLLATE \"C\"" } else { "TEXT" }.to_owned()),
        ("{bytes}", if postgres { "bytea" } else { "BLOB" }.to_owned()),
        ("{incarnation}", id(incarnation(1).0)),
        ("{id 1}", id(message_id(1).uuid())),
        ("{id 2}", id(message_id(2).uuid())),
        ("{fingerprint}", bytes(message.fingerprint.as_bytes())),
        ("{body}", bytes(&message.body)),
    ];
    for statement in statements {
        let statement = words.iter().fold((*statement).to_owned(), |text, (word, meaning)| text.replace(word, meaning));
        session.execute_unprepared(&statement).await.unwrap();
    }
}

const OLDER_INSERTS: [&str; 2] = [
    "INSERT INTO countersign_message (incarnation, seq, id, sent_at, fingerprint, required, exchange, routing_key, type, content_type, body) \
     VALUES ({incarnation}, 1, {id 1}, 1800000000000, {fingerprint}, 'inventory', 'countersign.messages', 'order.created', 'order.created', \
     'application/json', {body})",
    "INSERT INTO countersign_message (incarnation, seq, id, sent_at, fingerprint, required, exchange, routing_key, type, content_type, body) \
     VALUES ({incarnation}, 2, {id 2}, 1800000000000, {fingerprint}, 'inventory', 'countersign.messages', 'order.created', 'order.created', \
     'application/json', {body})",
];

async fn what_an_older_version_wrote_and_goes_on_writing_is_found_and_deleted(ground: Ground) {
    let opened = "INSERT INTO countersign_incarnation (id, upstream, state) VALUES ({incarnation}, 'shop', 'open')";
    older(&ground, &BEFORE).await;
    older(&ground, &[opened, OLDER_INSERTS[0]]).await;
    ground.database.migrate_messages().await.unwrap();
    older(&ground, &OLDER_INSERTS[1..]).await;

    let messages = ground.database.messages();
    let minted_at = Timestamp::default().plus_millis(3);
    let newer = IncarnationId(uuid::Uuid::from_u128(incarnation(2).0.as_u128() + 77));
    messages.open(&upstream("shop"), newer, minted_at).await.unwrap();
    let id = MessageId::at(newer, Seq(1), minted_at);
    let of_now = Message { id, sent_at: minted_at, ..a_message_with(3, "new") };
    messages.insert(newer, &[Numbered { seq: Seq(1), message: of_now }]).await.unwrap();

    let found = messages.get(&[message_id(1), message_id(2), id]).await.unwrap();
    let mut places: Vec<_> = found.iter().map(|row| row.position).collect();
    places.sort_unstable();
    assert_eq!(places, [position(1, 1), position(1, 2), Position { incarnation: newer, seq: Seq(1) }]);
    let first = found.iter().find(|row| row.message.id == message_id(1)).unwrap();
    assert_eq!(first.message, numbered(1).message, "as it was");
    let window = Window { since: Timestamp::default(), until: Timestamp::default().plus_millis(MINUTE_MS) };
    let page = messages.stored(&upstream("shop"), window, None, 10).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [message_id(1), message_id(2), id]);

    messages.close(incarnation(1)).await.unwrap();
    messages.close(newer).await.unwrap();
    let expiry = |millis| Expiry { now: Timestamp::default().plus_millis(millis), retention_ms: 1 };
    assert_eq!(messages.delete_expired(&upstream("shop"), expiry(4), 10).await.unwrap(), 0, "not older than its id");
    assert_eq!(messages.delete_expired(&upstream("shop"), expiry(5), 10).await.unwrap(), 1, "as old as its id");
    assert_eq!(messages.get(&[message_id(1), message_id(2), id]).await.unwrap().len(), 2);
}
