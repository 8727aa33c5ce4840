//! What [`Messages`] promise about deleting.

use std::collections::{BTreeMap, BTreeSet};

use countersign_delivery::ports::messages::{Entombed, Expiry, Inserted, Insertion, Messages, Numbered};
use countersign_delivery::{IdempotencyKey, Message, Position, Seq, Timestamp};

use crate::build::{a_message_with, incarnation, message_id, position, upstream};
use crate::conformance::messages::{OPENED, insert, open, seen};
use crate::conformance::walk::Dice;
use crate::messages::MemoryMessages;

/// Makes one test of each promise; `$setup` as for [`messages_suite!`](crate::messages_suite).
#[macro_export]
macro_rules! retention_suite {
    ($setup:path) => {
        $crate::retention_suite!($setup =>
            old_messages_below_the_watermark_go_and_others_stay,
            in_a_closed_incarnation_all_that_is_old_goes_and_then_the_incarnation,
            in_a_fenced_incarnation_what_its_adopter_scans_stays,
            a_tombstone_stays_until_its_incarnation_is_closed,
            a_batch_is_bounded_and_takes_the_oldest_first,
            a_deleted_key_is_free_and_a_kept_one_is_not,
            other_upstreams_keep_theirs,
            the_incarnation_that_tells_of_the_latest_promise_stays,
            what_is_gone_is_settled_and_nothing_is_inserted_adopted_or_beaten_for,
            deleters_at_the_same_time_delete_each_row_once,
            however_it_goes_only_what_is_old_and_settled_is_deleted,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (messages, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::retention::$promise(&messages).await;
        })*
    };
}

/// How long messages are kept here, milliseconds.
const RETENTION_MS: u64 = 1_000;
/// Now; long before the real time, since a database may ask its own clock too.
const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
pub(super) const EXPIRY: Expiry = Expiry { now: NOW, retention_ms: RETENTION_MS };
/// Just old enough.
pub(super) const OLD: Timestamp = NOW.minus_millis(RETENTION_MS + 1);
/// Just not.
const YOUNG: Timestamp = NOW.minus_millis(RETENTION_MS);

/// Message `id` at place `seq`.
fn at(seq: u64, id: u64, sent_at: Timestamp) -> Numbered {
    Numbered { seq: Seq(seq), message: Message { sent_at, ..a_message_with(id, &format!("body {id}")) } }
}

fn old(seq: u64) -> Numbered {
    at(seq, seq, OLD)
}

fn keyed(seq: u64, key: &str) -> Numbered {
    let Numbered { seq, message } = old(seq);
    let idempotency_key = Some(IdempotencyKey::new(key).expect("a valid key"));
    Numbered { seq, message: Message { idempotency_key, ..message } }
}

/// An incarnation that tells of the latest promise, so that others' heartbeats can go.
pub(super) const LAST: u64 = 99;

async fn watermark(messages: &impl Messages, of: u64, seq: u64) {
    assert!(messages.beat(incarnation(of), seq, Seq(seq), OPENED).await.expect("the store is up"));
}

async fn delete(messages: &impl Messages, limit: u32) -> u64 {
    messages.delete_expired(&upstream("shop"), EXPIRY, limit).await.expect("the store is up")
}

async fn seqs(messages: &impl Messages, of: u64) -> Vec<u64> {
    let rows = messages.scan(incarnation(of), Seq::FIRST, 1_000).await.expect("the store is up");
    rows.iter().map(|row| row.position.seq.0).collect()
}

/// As the name says: neither a young one below the watermark nor an old one at it or above.
pub async fn old_messages_below_the_watermark_go_and_others_stay(messages: &impl Messages) {
    open(messages, 1).await;
    insert(messages, 1, &[old(1), old(2), at(3, 3, YOUNG), old(4), old(5)]).await;
    assert_eq!(delete(messages, 100).await, 0, "nothing is settled yet");
    watermark(messages, 1, 4).await;
    assert_eq!(delete(messages, 100).await, 2);
    assert_eq!(seqs(messages, 1).await, [3, 4, 5]);
    assert_eq!(delete(messages, 100).await, 0);
    assert_eq!(messages.get(&[message_id(1)]).await.expect("the store is up"), []);
}

/// As the name says; one that is empty from the start goes as well.
pub async fn in_a_closed_incarnation_all_that_is_old_goes_and_then_the_incarnation(messages: &impl Messages) {
    for of in [1, 2, LAST] {
        open(messages, of).await;
    }
    insert(messages, 1, &[old(1), at(2, 2, YOUNG), old(3)]).await;
    for of in 1..=2 {
        messages.close(incarnation(of)).await.expect("the store is up");
    }
    assert_eq!(delete(messages, 100).await, 2);
    assert_eq!(seqs(messages, 1).await, [2]);
    let later = Expiry { now: NOW.plus_millis(1), ..EXPIRY };
    assert_eq!(messages.delete_expired(&upstream("shop"), later, 100).await.expect("the store is up"), 1);
    for of in 1..=2 {
        // Its name is free again, so it is gone.
        open(messages, of).await;
        assert_eq!(seen(messages, of).await.expect("it is open").watermark, Seq::FIRST);
    }
}

/// As the name says.
pub async fn in_a_fenced_incarnation_what_its_adopter_scans_stays(messages: &impl Messages) {
    open(messages, 1).await;
    insert(messages, 1, &[old(1), old(2), old(3)]).await;
    watermark(messages, 1, 2).await;
    let heartbeat = seen(messages, 1).await.expect("it is open");
    assert!(messages.adopt(&heartbeat, incarnation(2)).await.expect("the store is up"));
    messages.fence(incarnation(1)).await.expect("the store is up");
    assert_eq!(delete(messages, 100).await, 1);
    assert_eq!(seqs(messages, 1).await, [2, 3]);
    assert_eq!(seen(messages, 1).await.expect("it is not closed").watermark, Seq(2));
}

/// As the name says: whatever the watermark, a late insert must find its place taken.
pub async fn a_tombstone_stays_until_its_incarnation_is_closed(messages: &impl Messages) {
    open(messages, 1).await;
    assert_eq!(messages.entomb(position(1, 1)).await.expect("the store is up"), Entombed::RolledBack);
    insert(messages, 1, &[old(2)]).await;
    watermark(messages, 1, 3).await;
    assert_eq!(delete(messages, 100).await, 1, "the message");
    let late = messages.insert(incarnation(1), &[old(1)]).await;
    assert!(late.is_err(), "{late:?}");
    messages.close(incarnation(1)).await.expect("the store is up");
    assert_eq!(delete(messages, 100).await, 1, "the tombstone");
    assert_eq!(messages.insert(incarnation(1), &[old(1)]).await.expect("the store is up"), Insertion::Fenced);
}

/// As the name says.
pub async fn a_batch_is_bounded_and_takes_the_oldest_first(messages: &impl Messages) {
    open(messages, 1).await;
    open(messages, 2).await;
    insert(messages, 1, &(1..=5).map(old).collect::<Vec<_>>()).await;
    insert(messages, 2, &(6..=8).map(old).collect::<Vec<_>>()).await;
    watermark(messages, 1, 6).await;
    watermark(messages, 2, 9).await;
    assert_eq!(delete(messages, 3).await, 3);
    assert_eq!((seqs(messages, 1).await, seqs(messages, 2).await), (vec![4, 5], vec![6, 7, 8]));
    assert_eq!(delete(messages, 3).await, 3);
    assert_eq!((seqs(messages, 1).await, seqs(messages, 2).await), (vec![], vec![7, 8]));
    assert_eq!(delete(messages, 3).await, 2);
    assert_eq!(delete(messages, 3).await, 0);
}

/// As the name says.
pub async fn a_deleted_key_is_free_and_a_kept_one_is_not(messages: &impl Messages) {
    open(messages, 1).await;
    insert(messages, 1, &[keyed(1, "gone"), keyed(2, "kept")]).await;
    watermark(messages, 1, 2).await;
    assert_eq!(delete(messages, 100).await, 1);
    let again = insert(messages, 1, &[keyed(3, "gone"), keyed(4, "kept")]).await;
    assert!(matches!(again[..], [Inserted::Stored, Inserted::Conflict { .. }]), "{again:?}");
}

/// As the name says, however old.
pub async fn other_upstreams_keep_theirs(messages: &impl Messages) {
    messages.open(&upstream("other"), incarnation(1), OPENED).await.expect("an incarnation opens");
    insert(messages, 1, &[old(1)]).await;
    messages.close(incarnation(1)).await.expect("the store is up");
    assert_eq!(delete(messages, 100).await, 0);
    assert_eq!(seqs(messages, 1).await, [1]);
}

/// As the name says, empty and closed, until another one's heartbeat tells of a later one; other upstreams' do not count.
pub async fn the_incarnation_that_tells_of_the_latest_promise_stays(messages: &impl Messages) {
    let (promised, later) = (OPENED.plus_millis(60_000), OPENED.plus_millis(90_000));
    let told =
        async |of: u64| messages.open(&upstream("shop"), incarnation(of), OPENED).await.expect("an incarnation opens").promised;
    messages.open(&upstream("other"), incarnation(LAST), later).await.expect("an incarnation opens");
    assert_eq!(told(1).await, OPENED, "its own");
    assert!(messages.beat(incarnation(1), 1, Seq::FIRST, promised).await.expect("the store is up"));
    assert_eq!(told(2).await, promised);
    for of in 1..=2 {
        messages.close(incarnation(of)).await.expect("the store is up");
    }
    assert_eq!(delete(messages, 100).await, 0);
    assert_eq!(told(2).await, promised, "2 is gone, 1 is not");
    assert!(messages.beat(incarnation(2), 1, Seq::FIRST, later).await.expect("the store is up"));
    assert_eq!(delete(messages, 100).await, 0);
    messages.open(&upstream("shop"), incarnation(1), OPENED).await.expect("its name is free: it has gone");
    assert_eq!(told(3).await, later);
}

/// As the name says, of an incarnation; whoever has been asleep for so long learns that it is over.
pub async fn what_is_gone_is_settled_and_nothing_is_inserted_adopted_or_beaten_for(messages: &impl Messages) {
    open(messages, LAST).await;
    open(messages, 1).await;
    insert(messages, 1, &[old(1)]).await;
    let heartbeat = seen(messages, 1).await.expect("it is open");
    assert!(!messages.is_settled(position(1, 1)).await.expect("the store is up"));
    messages.close(incarnation(1)).await.expect("the store is up");
    assert_eq!(delete(messages, 100).await, 1);
    assert!(messages.is_settled(position(1, 1)).await.expect("the store is up"));
    assert_eq!(messages.insert(incarnation(1), &[old(2)]).await.expect("the store is up"), Insertion::Fenced);
    assert!(!messages.adopt(&heartbeat, incarnation(2)).await.expect("the store is up"));
    assert!(!messages.beat(incarnation(1), 9, Seq(9), OPENED).await.expect("the store is up"));
    assert_eq!(messages.entomb(position(1, 2)).await.expect("the store is up"), Entombed::RolledBack);
    messages.fence(incarnation(1)).await.expect("the store is up");
    messages.close(incarnation(1)).await.expect("the store is up");
    open(messages, 1).await;
    assert_eq!(insert(messages, 1, &[old(2)]).await, [Inserted::Stored], "no tombstone was left behind");
}

/// As the name says.
pub async fn deleters_at_the_same_time_delete_each_row_once(messages: &impl Messages) {
    const ROWS: u64 = 60;
    open(messages, 1).await;
    insert(messages, 1, &(1..=ROWS).map(old).collect::<Vec<_>>()).await;
    watermark(messages, 1, ROWS).await;
    let deleter = || async {
        let mut deleted = 0;
        loop {
            match delete(messages, 7).await {
                0 => return deleted,
                some => deleted += some,
            }
        }
    };
    let (a, b, c) = tokio::join!(deleter(), deleter(), deleter());
    let rest = deleter().await;
    assert_eq!(a + b + c + rest, ROWS - 1, "{a} {b} {c} {rest}");
    assert_eq!(seqs(messages, 1).await, [ROWS]);
}

/// As the name says: a random walk, whose every deletion is judged by its own books and compared with the adapter in memory.
pub async fn however_it_goes_only_what_is_old_and_settled_is_deleted(messages: &impl Messages) {
    const STEPS: u64 = 250;
    let memory = MemoryMessages::default();
    let (mut dice, mut books) = (Dice::new(7), Books::default());
    open(messages, LAST).await;
    open(&memory, LAST).await;
    for step in 1..=STEPS {
        let of = 1 + dice.below(4);
        match dice.below(8) {
            0..=2 => books.insert(&mut dice, step, of, messages, &memory).await,
            3 | 4 => books.beat(&mut dice, of, messages, &memory).await,
            5 if dice.below(3) == 0 => books.close(of, messages, &memory).await,
            5 => books.entomb(of, messages, &memory).await,
            _ => {
                let limit = 1 + u32::try_from(dice.below(5)).unwrap_or(0);
                let deleted = delete(messages, limit).await;
                assert_eq!(deleted, delete(&memory, limit).await, "step {step}");
                assert!(deleted <= u64::from(limit), "step {step}: {deleted} of {limit}");
            }
        }
        books.judge(step, messages, &memory).await;
    }
    assert!(books.deleted > 20, "the walk deleted only {}", books.deleted);
}

/// What a walk did.
#[derive(Debug, Default)]
struct Books {
    /// Each message's place and age.
    stored: BTreeMap<Position, Timestamp>,
    /// Open incarnations: their next seq and watermark.
    open: BTreeMap<u64, (u64, u64)>,
    deleted: usize,
}

impl Books {
    async fn insert(&mut self, dice: &mut Dice, step: u64, of: u64, one: &impl Messages, other: &impl Messages) {
        if !self.open.contains_key(&of) {
            if self.stored.keys().any(|position| position.incarnation == incarnation(of)) {
                return;
            }
            // Gone, or never there; what is closed and not gone yet refuses its name, or keeps it.
            delete(one, 100).await;
            delete(other, 100).await;
            open(one, of).await;
            open(other, of).await;
            self.open.insert(of, (1, 1));
        }
        let Some((next, _)) = self.open.get_mut(&of) else { return };
        let rows: Vec<Numbered> = (0..=dice.below(4))
            .map(|n| {
                let sent_at = if dice.below(3) == 0 { YOUNG } else { OLD };
                at(*next + n, step * 10 + n, sent_at)
            })
            .collect();
        *next += u64::try_from(rows.len()).unwrap_or(0);
        insert(one, of, &rows).await;
        insert(other, of, &rows).await;
        self.stored.extend(rows.iter().map(|row| (position(of, row.seq.0), row.message.sent_at)));
    }

    async fn beat(&mut self, dice: &mut Dice, of: u64, one: &impl Messages, other: &impl Messages) {
        let Some((next, settled)) = self.open.get_mut(&of) else { return };
        *settled += dice.below(*next - *settled + 1);
        watermark(one, of, *settled).await;
        watermark(other, of, *settled).await;
    }

    async fn entomb(&mut self, of: u64, one: &impl Messages, other: &impl Messages) {
        let Some((next, _)) = self.open.get_mut(&of) else { return };
        let place = position(of, *next);
        *next += 1;
        assert_eq!(one.entomb(place).await.expect("the store is up"), Entombed::RolledBack);
        assert_eq!(other.entomb(place).await.expect("the store is up"), Entombed::RolledBack);
    }

    async fn close(&mut self, of: u64, one: &impl Messages, other: &impl Messages) {
        if self.open.remove(&of).is_some() {
            one.close(incarnation(of)).await.expect("the store is up");
            other.close(incarnation(of)).await.expect("the store is up");
        }
    }

    /// Compares what is left with what may be gone.
    async fn judge(&mut self, step: u64, one: &impl Messages, other: &impl Messages) {
        let mut left = BTreeSet::new();
        for of in 1..=4 {
            let rows = seqs(one, of).await;
            assert_eq!(rows, seqs(other, of).await, "step {step}");
            left.extend(rows.into_iter().map(|seq| position(of, seq)));
        }
        let gone: Vec<_> = self.stored.iter().filter(|(place, _)| !left.contains(*place)).map(|(p, at)| (*p, *at)).collect();
        for (place, sent_at) in gone {
            let unsettled =
                self.open.iter().any(|(of, (_, settled))| place.incarnation == incarnation(*of) && place.seq.0 >= *settled);
            assert!(sent_at == OLD && !unsettled, "step {step}: {place:?} was deleted");
            self.stored.remove(&place);
            self.deleted += 1;
        }
        assert_eq!(self.stored.len(), left.len(), "step {step}: a deleted message came back");
    }
}
