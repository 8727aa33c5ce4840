//! What [`Messages`] promise.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Entombed, Heartbeat, IncarnationState, Inserted, Insertion, Messages, Numbered};
use countersign_delivery::{IdempotencyKey, IncarnationId, Message, MessageId, Seq, StoredMessage, Timestamp, TraceContext};
use uuid::Uuid;

use crate::build::{a_message_with, incarnation, message_id, position, subscription, upstream};

/// Makes one test of each promise. `$setup` is an async function from the test's name to `(impl Messages, _)`; the second part
/// is kept until the test has ended.
#[macro_export]
macro_rules! messages_suite {
    ($setup:path) => {
        $crate::messages_suite!($setup =>
            a_message_is_read_back_as_it_was_stored,
            an_incarnation_begins_open_with_nothing_behind_it,
            only_the_upstreams_own_unclosed_incarnations_are_seen,
            a_known_key_with_the_same_fingerprint_is_a_repeat,
            a_known_key_with_another_fingerprint_is_a_conflict,
            racing_inserts_of_one_key_store_it_once,
            a_fenced_closed_or_unknown_incarnation_inserts_nothing,
            a_claimed_incarnation_inserts_nothing,
            a_batch_that_is_refused_leaves_nothing_behind,
            an_unknown_commit_that_happened_is_found,
            an_unknown_commit_that_did_not_happen_is_entombed_for_good,
            the_owner_beats_until_it_is_adopted,
            what_is_said_to_be_settled_neither_goes_back_nor_ahead_of_the_databases_clock,
            adoption_compares_and_sets,
            a_fenced_incarnation_with_a_dead_adopter_is_adoptable_again,
            a_scan_ascends_from_a_seq_and_leaves_tombstones_out,
            what_lies_at_seqs_is_found_without_tombstones,
            a_closed_incarnation_stays_closed,
            settled_is_what_lies_below_the_watermark_or_in_a_closed_incarnation,
            what_is_not_there_is_left_out,
            an_id_that_says_its_place_is_found_there_and_only_there,
            what_many_messages_have_in_common_is_each_ones_own,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (messages, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::messages::$promise(&messages).await;
        })*
    };
}

/// When the incarnations of these promises are opened.
pub(super) const OPENED: Timestamp = Timestamp::from_millis(1_735_689_600_000);

fn numbered(n: u64) -> Numbered {
    Numbered { seq: Seq(n), message: a_message_with(n, &format!("body {n}")) }
}

fn keyed(n: u64, key: &str, body: &str) -> Numbered {
    let idempotency_key = Some(IdempotencyKey::new(key).expect("a valid key"));
    Numbered { seq: Seq(n), message: Message { idempotency_key, ..a_message_with(n, body) } }
}

pub(super) async fn open(messages: &impl Messages, n: u64) {
    messages.open(&upstream("shop"), incarnation(n), OPENED).await.expect("an incarnation opens");
}

pub(super) async fn insert(messages: &impl Messages, of: u64, batch: &[Numbered]) -> Vec<Inserted> {
    match messages.insert(incarnation(of), batch).await.expect("the store is up") {
        Insertion::Committed(rows) => rows,
        Insertion::Fenced => panic!("incarnation {of} is open"),
    }
}

pub(super) async fn seen(messages: &impl Messages, of: u64) -> Option<Heartbeat> {
    let all = messages.heartbeats(&upstream("shop")).await.expect("the store is up");
    all.into_iter().find(|heartbeat| heartbeat.incarnation == incarnation(of))
}

async fn seqs(messages: &impl Messages, of: u64, from: u64, limit: u32) -> Vec<u64> {
    let rows = messages.scan(incarnation(of), Seq(from), limit).await.expect("the store is up");
    rows.iter().map(|row| row.position.seq.0).collect()
}

/// As the name says, by id, by key and by place, field for field.
pub async fn a_message_is_read_back_as_it_was_stored(messages: &impl Messages) {
    open(messages, 1).await;
    let headers = BTreeMap::from([("region".to_owned(), "eu".to_owned()), ("note".to_owned(), "čö \"quoted\"".to_owned())]);
    let trace = TraceContext { traceparent: "00-1-2-01".into(), tracestate: Some("a=b".into()) };
    let rich = Message {
        idempotency_key: Some(IdempotencyKey::new("order 7/ä").expect("a valid key")),
        required: vec![subscription("audit"), subscription("inventory")],
        headers,
        body: Bytes::from_static(&[0, 159, 146, 150, 255]),
        trace: Some(trace),
        ..a_message_with(1, "rich")
    };
    let plain = Message { body: Bytes::new(), ..a_message_with(2, "plain") };
    let batch = [Numbered { seq: Seq(1), message: rich.clone() }, Numbered { seq: Seq(2), message: plain.clone() }];
    assert_eq!(insert(messages, 1, &batch).await, [Inserted::Stored, Inserted::Stored]);

    let stored = [
        StoredMessage { position: position(1, 1), message: rich.clone() },
        StoredMessage { position: position(1, 2), message: plain.clone() },
    ];
    assert_eq!(messages.scan(incarnation(1), Seq::FIRST, 10).await.expect("the store is up"), stored);
    let mut by_id = messages.get(&[plain.id, rich.id]).await.expect("the store is up");
    by_id.sort_by_key(|row| row.position);
    assert_eq!(by_id, stored);
    let key = rich.idempotency_key.as_ref().expect("given above");
    assert_eq!(messages.by_key(key).await.expect("the store is up").as_ref(), Some(&stored[0]));
}

/// As the name says.
pub async fn an_incarnation_begins_open_with_nothing_behind_it(messages: &impl Messages) {
    open(messages, 1).await;
    let begun = Heartbeat {
        incarnation: incarnation(1),
        counter: 0,
        watermark: Seq::FIRST,
        settled_until: OPENED,
        adopter: None,
        state: IncarnationState::Open,
    };
    assert_eq!(seen(messages, 1).await, Some(begun));
    assert_eq!(seqs(messages, 1, 1, 10).await, [0_u64; 0]);
}

/// As the name says.
pub async fn only_the_upstreams_own_unclosed_incarnations_are_seen(messages: &impl Messages) {
    open(messages, 1).await;
    open(messages, 2).await;
    open(messages, 3).await;
    messages.open(&upstream("another"), incarnation(4), OPENED).await.expect("an incarnation opens");
    messages.fence(incarnation(2)).await.expect("the store is up");
    messages.close(incarnation(3)).await.expect("the store is up");
    let all = messages.heartbeats(&upstream("shop")).await.expect("the store is up");
    let states: BTreeMap<_, _> = all.iter().map(|row| (row.incarnation, row.state)).collect();
    let expected = [(incarnation(1), IncarnationState::Open), (incarnation(2), IncarnationState::Fenced)];
    assert_eq!(states, BTreeMap::from(expected));
}

/// As the name says: within a batch, across batches and across incarnations; nothing is written for it.
pub async fn a_known_key_with_the_same_fingerprint_is_a_repeat(messages: &impl Messages) {
    open(messages, 1).await;
    open(messages, 2).await;
    let repeat = Inserted::Repeat { id: message_id(1), position: position(1, 1) };
    let answers = insert(messages, 1, &[keyed(1, "k", "same"), numbered(2), keyed(3, "k", "same")]).await;
    assert_eq!(answers, [Inserted::Stored, Inserted::Stored, repeat.clone()]);
    assert_eq!(insert(messages, 1, &[keyed(4, "k", "same")]).await, std::slice::from_ref(&repeat));
    let answers = insert(messages, 2, &[numbered(11), keyed(12, "k", "same"), numbered(13)]).await;
    assert_eq!(answers, [Inserted::Stored, repeat, Inserted::Stored]);
    assert_eq!(seqs(messages, 1, 1, 10).await, [1, 2]);
    assert_eq!(seqs(messages, 2, 1, 10).await, [11, 13]);
}

/// As the name says.
pub async fn a_known_key_with_another_fingerprint_is_a_conflict(messages: &impl Messages) {
    open(messages, 1).await;
    let conflict = Inserted::Conflict { id: message_id(1) };
    let answers = insert(messages, 1, &[keyed(1, "k", "genuine"), keyed(2, "k", "impostor"), numbered(3)]).await;
    assert_eq!(answers, [Inserted::Stored, conflict.clone(), Inserted::Stored]);
    assert_eq!(insert(messages, 1, &[keyed(4, "k", "impostor")]).await, [conflict]);
    assert_eq!(seqs(messages, 1, 1, 10).await, [1, 3]);
}

/// As the name says: one is stored, the others repeat it. A batch that lost the race may be refused as a whole once.
pub async fn racing_inserts_of_one_key_store_it_once(messages: &impl Messages) {
    open(messages, 1).await;
    let race = |n: u64| async move {
        let batch = [keyed(n, "k", "same")];
        for _ in 0..10 {
            if let Ok(Insertion::Committed(rows)) = messages.insert(incarnation(1), &batch).await {
                return rows;
            }
        }
        panic!("row {n} was refused ten times");
    };
    let (a, b, c, d) = tokio::join!(race(1), race(2), race(3), race(4));
    let all = [a, b, c, d].concat();
    let stored = all.iter().filter(|row| **row == Inserted::Stored).count();
    let repeats = all.iter().filter(|row| matches!(row, Inserted::Repeat { .. })).count();
    assert_eq!((stored, repeats), (1, 3), "{all:?}");
    assert_eq!(seqs(messages, 1, 1, 10).await.len(), 1);
}

/// As the name says.
pub async fn a_fenced_closed_or_unknown_incarnation_inserts_nothing(messages: &impl Messages) {
    open(messages, 1).await;
    open(messages, 2).await;
    messages.fence(incarnation(1)).await.expect("the store is up");
    messages.close(incarnation(2)).await.expect("the store is up");
    for of in 1..=3 {
        let answer = messages.insert(incarnation(of), &[numbered(of), keyed(of + 10, "k", "x")]).await;
        assert_eq!(answer.expect("the store is up"), Insertion::Fenced, "incarnation {of}");
        assert_eq!(seqs(messages, of, 1, 10).await, [0_u64; 0]);
    }
}

/// As the name says: not even before it is fenced, and not a repeat either.
pub async fn a_claimed_incarnation_inserts_nothing(messages: &impl Messages) {
    open(messages, 1).await;
    insert(messages, 1, &[keyed(1, "k", "same")]).await;
    let heartbeat = seen(messages, 1).await.expect("it is open");
    assert!(messages.adopt(&heartbeat, incarnation(2)).await.expect("the store is up"));
    assert_eq!(seen(messages, 1).await.map(|row| row.state), Some(IncarnationState::Open));
    for batch in [vec![numbered(2)], vec![keyed(3, "k", "same")], vec![keyed(4, "k", "same"), numbered(5)]] {
        let answer = messages.insert(incarnation(1), &batch).await;
        assert_eq!(answer.expect("the store is up"), Insertion::Fenced, "{batch:?}");
    }
    assert_eq!(seqs(messages, 1, 1, 10).await, [1]);
}

/// As the name says: a place that is taken refuses the whole batch.
pub async fn a_batch_that_is_refused_leaves_nothing_behind(messages: &impl Messages) {
    open(messages, 1).await;
    insert(messages, 1, &[numbered(2)]).await;
    let refused = messages.insert(incarnation(1), &[numbered(1), Numbered { seq: Seq(2), ..numbered(7) }]).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(seqs(messages, 1, 1, 10).await, [2]);
    assert_eq!(insert(messages, 1, &[numbered(1)]).await, [Inserted::Stored], "the store goes on");
}

/// As the name says, and asking changes nothing.
pub async fn an_unknown_commit_that_happened_is_found(messages: &impl Messages) {
    open(messages, 1).await;
    insert(messages, 1, &[numbered(1)]).await;
    let stored = StoredMessage { position: position(1, 1), message: numbered(1).message };
    for _ in 0..2 {
        let answer = messages.entomb(position(1, 1)).await.expect("the store is up");
        assert_eq!(answer, Entombed::Committed(Box::new(stored.clone())));
    }
    assert_eq!(messages.get(&[message_id(1)]).await.expect("the store is up"), [stored]);
}

/// As the name says: the row can never appear afterwards, and the tombstone is never handed out.
pub async fn an_unknown_commit_that_did_not_happen_is_entombed_for_good(messages: &impl Messages) {
    open(messages, 1).await;
    for _ in 0..2 {
        assert_eq!(messages.entomb(position(1, 1)).await.expect("the store is up"), Entombed::RolledBack);
    }
    let late = messages.insert(incarnation(1), &[numbered(1)]).await;
    assert!(late.is_err(), "{late:?}");
    assert_eq!(messages.get(&[message_id(1)]).await.expect("the store is up"), []);
    assert_eq!(seqs(messages, 1, 1, 10).await, [0_u64; 0]);
}

/// As the name says.
pub async fn the_owner_beats_until_it_is_adopted(messages: &impl Messages) {
    open(messages, 1).await;
    assert!(messages.beat(incarnation(1), 1, Seq(5), OPENED.plus_millis(5)).await.expect("the store is up"));
    let heartbeat = seen(messages, 1).await.expect("it is open");
    assert_eq!((heartbeat.counter, heartbeat.watermark, heartbeat.settled_until), (1, Seq(5), OPENED.plus_millis(5)));
    assert!(messages.adopt(&heartbeat, incarnation(2)).await.expect("the store is up"));
    assert!(!messages.beat(incarnation(1), 2, Seq(9), OPENED.plus_millis(9)).await.expect("the store is up"));
    let adopted = seen(messages, 1).await.expect("it is not closed");
    assert_eq!((adopted.watermark, adopted.adopter), (Seq(5), Some(incarnation(2))), "a moved watermark is not harmless");
    assert_eq!(adopted.settled_until, OPENED.plus_millis(5), "what it left behind holds it back until it is closed");
}

/// As the name says: an owner whose clock is ahead binds nobody to its time.
pub async fn what_is_said_to_be_settled_neither_goes_back_nor_ahead_of_the_databases_clock(messages: &impl Messages) {
    let until = async |of| seen(messages, of).await.expect("it is open").settled_until;
    let a_century = 100 * 365 * 86_400_000;
    let ahead = OPENED.plus_millis(a_century);
    let opened = messages.open(&upstream("shop"), incarnation(1), ahead).await.expect("an incarnation opens");
    let first = until(1).await;
    assert!(OPENED <= first && first <= opened.now && opened.now < ahead, "{first:?} {opened:?}");
    assert_eq!(opened.promised, first);
    assert!(messages.beat(incarnation(1), 1, Seq::FIRST, ahead).await.expect("the store is up"));
    let second = until(1).await;
    assert!(first <= second && second < ahead, "{second:?}");
    assert!(messages.beat(incarnation(1), 2, Seq::FIRST, OPENED).await.expect("the store is up"));
    assert_eq!(until(1).await, second);
    let behind = messages.open(&upstream("shop"), incarnation(2), OPENED).await.expect("an incarnation opens");
    assert_eq!((behind.promised, until(2).await), (second, OPENED));
}

/// As the name says: a beat or another adopter in between, and the claim fails.
pub async fn adoption_compares_and_sets(messages: &impl Messages) {
    open(messages, 1).await;
    let before = seen(messages, 1).await.expect("it is open");
    messages.beat(incarnation(1), 1, Seq::FIRST, OPENED).await.expect("the store is up");
    assert!(!messages.adopt(&before, incarnation(2)).await.expect("the store is up"), "it has beaten since");
    let now = seen(messages, 1).await.expect("it is open");
    let (a, b) = tokio::join!(messages.adopt(&now, incarnation(2)), messages.adopt(&now, incarnation(3)));
    let winners = [a.expect("the store is up"), b.expect("the store is up")];
    assert_eq!(winners.iter().filter(|won| **won).count(), 1, "{winners:?}");
}

/// As the name says.
pub async fn a_fenced_incarnation_with_a_dead_adopter_is_adoptable_again(messages: &impl Messages) {
    open(messages, 1).await;
    let heartbeat = seen(messages, 1).await.expect("it is open");
    assert!(messages.adopt(&heartbeat, incarnation(2)).await.expect("the store is up"));
    messages.fence(incarnation(1)).await.expect("the store is up");
    let orphan = seen(messages, 1).await.expect("it is not closed");
    assert_eq!((orphan.state, orphan.adopter), (IncarnationState::Fenced, Some(incarnation(2))));
    assert!(messages.adopt(&orphan, incarnation(3)).await.expect("the store is up"));
    assert_eq!(seen(messages, 1).await.expect("it is not closed").adopter, Some(incarnation(3)));
}

/// As the name says, up to a limit.
pub async fn a_scan_ascends_from_a_seq_and_leaves_tombstones_out(messages: &impl Messages) {
    open(messages, 1).await;
    open(messages, 2).await;
    insert(messages, 1, &[numbered(5), numbered(1)]).await;
    insert(messages, 1, &[numbered(3), numbered(2)]).await;
    insert(messages, 2, &[numbered(9)]).await;
    messages.entomb(position(1, 4)).await.expect("the store is up");
    assert_eq!(seqs(messages, 1, 1, 100).await, [1, 2, 3, 5]);
    assert_eq!(seqs(messages, 1, 2, 3).await, [2, 3, 5]);
    assert_eq!(seqs(messages, 1, 2, 2).await, [2, 3]);
    assert_eq!(seqs(messages, 1, 6, 10).await, [0_u64; 0]);
}

/// As the name says, and only in the incarnation asked for.
pub async fn what_lies_at_seqs_is_found_without_tombstones(messages: &impl Messages) {
    open(messages, 1).await;
    open(messages, 2).await;
    insert(messages, 1, &[numbered(1), numbered(2), numbered(3)]).await;
    insert(messages, 2, &[numbered(4)]).await;
    messages.entomb(position(1, 5)).await.expect("the store is up");
    let mut found = messages.at(incarnation(1), &[3, 1, 4, 5, 6].map(Seq)).await.expect("the store is up");
    found.sort_by_key(|row| row.position);
    let rows = [1, 3].map(|n| StoredMessage { position: position(1, n), message: numbered(n).message });
    assert_eq!(found, rows);
    assert_eq!(messages.at(incarnation(1), &[]).await.expect("the store is up"), []);
}

/// As the name says: a fence that comes late does not open it again.
pub async fn a_closed_incarnation_stays_closed(messages: &impl Messages) {
    open(messages, 1).await;
    let heartbeat = seen(messages, 1).await.expect("it is open");
    messages.close(incarnation(1)).await.expect("the store is up");
    messages.fence(incarnation(1)).await.expect("the store is up");
    assert_eq!(seen(messages, 1).await, None);
    assert!(!messages.adopt(&heartbeat, incarnation(2)).await.expect("the store is up"), "nothing is left to inherit");
}

/// As the name says.
pub async fn settled_is_what_lies_below_the_watermark_or_in_a_closed_incarnation(messages: &impl Messages) {
    open(messages, 1).await;
    insert(messages, 1, &[numbered(1), numbered(2), numbered(3)]).await;
    messages.beat(incarnation(1), 1, Seq(3), OPENED).await.expect("the store is up");
    let mut settled = BTreeSet::new();
    for seq in 1..=3 {
        if messages.is_settled(position(1, seq)).await.expect("the store is up") {
            settled.insert(seq);
        }
    }
    assert_eq!(settled, BTreeSet::from([1, 2]));
    messages.close(incarnation(1)).await.expect("the store is up");
    assert!(messages.is_settled(position(1, 3)).await.expect("the store is up"));
}

/// As the name says.
pub async fn what_is_not_there_is_left_out(messages: &impl Messages) {
    open(messages, 1).await;
    insert(messages, 1, &[numbered(1)]).await;
    let found = messages.get(&[message_id(9), message_id(1)]).await.expect("the store is up");
    assert_eq!(found.iter().map(|row| row.message.id).collect::<Vec<_>>(), [message_id(1)]);
    assert_eq!(messages.get(&[]).await.expect("the store is up"), []);
    let key = IdempotencyKey::new("nobody's").expect("a valid key");
    assert_eq!(messages.by_key(&key).await.expect("the store is up"), None);
    assert_eq!(insert(messages, 1, &[]).await, [], "an empty batch of an open incarnation is committed");
}

/// As the name says, beside one that does not say it; and no two incarnations' ids can say the same.
pub async fn an_id_that_says_its_place_is_found_there_and_only_there(messages: &impl Messages) {
    open(messages, 1).await;
    open(messages, 2).await;
    let minted = |of: u64, seq: u64| {
        let id = MessageId::at(incarnation(of), Seq(seq), OPENED);
        Numbered { seq: Seq(seq), message: Message { id, sent_at: OPENED, ..a_message_with(seq, &format!("{of} {seq}")) } }
    };
    let (here, there) = (minted(1, 1), minted(2, 1));
    insert(messages, 1, &[here.clone(), numbered(7)]).await;
    insert(messages, 2, std::slice::from_ref(&there)).await;
    let place_of_another_time = MessageId::at(incarnation(1), Seq(1), OPENED.plus_millis(5));
    let empty_place = MessageId::at(incarnation(1), Seq(2), OPENED);
    let place_of_another_id = MessageId::at(incarnation(1), Seq(7), OPENED);
    let ids =
        [there.message.id, place_of_another_time, numbered(7).message.id, empty_place, here.message.id, place_of_another_id];
    let mut found = messages.get(&ids).await.expect("the store is up");
    found.sort_by_key(|row| row.position);
    assert_eq!(found.into_iter().map(|row| row.message).collect::<Vec<_>>(), [here, numbered(7), there].map(|row| row.message));

    let namesake = IncarnationId(Uuid::from_u128(incarnation(1).0.as_u128() ^ (1 << 90)));
    assert_eq!(namesake.tag(), incarnation(1).tag());
    let refused = messages.open(&upstream("shop"), namesake, OPENED).await;
    assert!(matches!(refused, Err(PortError::Refused(..))), "{refused:?}");
}

/// Types, routes and who must sign repeat themselves from batch to batch, beside some that do not.
pub async fn what_many_messages_have_in_common_is_each_ones_own(messages: &impl Messages) {
    open(messages, 1).await;
    let mut expected = Vec::new();
    for batch in 0..6_u64 {
        let rows: Vec<_> = (1..=4_u64)
            .map(|place| {
                let n = batch * 4 + place;
                let common = a_message_with(n, &format!("body {n}"));
                let message = match place {
                    1 => common,
                    2 => Message { routing_key: "order.cancelled".into(), required: vec![subscription("audit")], ..common },
                    3 => Message { routing_key: format!("order.{n}"), ..common },
                    _ => Message { exchange: String::new(), content_type: "text/plain".into(), ..common },
                };
                Numbered { seq: Seq(n), message }
            })
            .collect();
        insert(messages, 1, &rows).await;
        expected.extend(rows.into_iter().map(|row| StoredMessage { position: position(1, row.seq.0), message: row.message }));
    }
    assert_eq!(messages.scan(incarnation(1), Seq::FIRST, 100).await.expect("the store is up"), expected);
    let seqs: Vec<_> = expected.iter().map(|row| row.position.seq).collect();
    let mut at = messages.at(incarnation(1), &seqs).await.expect("the store is up");
    at.sort_by_key(|row| row.position);
    assert_eq!(at, expected);
}
