//! What [`Outbox`] promises, beside [`Messages`] on the same tables.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use countersign_delivery::outbox::{Entry, Outcome, Patience, Status};
use countersign_delivery::ports::messages::{Inserted, Messages, Numbered};
use countersign_delivery::ports::outbox::{Claim, Named, Outbox, Released};
use countersign_delivery::topology::Mode;
use countersign_delivery::{Message, MessageId, Seq, StoredMessage};

use crate::build::{a_message_with, incarnation, message_id, position, upstream};
use crate::conformance::messages::{insert, open};
use crate::conformance::retention::{EXPIRY, LAST, OLD};
use crate::conformance::walk::Dice;
use crate::messages::MemoryMessages;

/// Makes one test of each promise. `$setup` is an async function from the test's name to `(impl Messages + Outbox, _)`, whose rows are due
/// minutes after they are stored or claimed; the second part is kept until the test has ended.
#[macro_export]
macro_rules! outbox_suite {
    ($setup:path) => {
        $crate::outbox_suite!($setup =>
            a_row_begins_sending_and_reads_back_with_its_mode,
            only_rows_of_the_outbox_have_a_status,
            a_successors_scan_leaves_rows_of_the_outbox_out,
            a_confirm_ends_a_row_whatever_comes_later,
            more_refusals_than_tries_fail_a_row_once,
            a_late_confirm_counts_after_all,
            what_is_refused_is_due_after_its_pause,
            a_claim_moves_the_time_on_so_that_the_next_one_passes_it_over,
            a_claim_is_bounded_and_takes_the_longest_due_first,
            named_rows_are_claimed_before_they_are_due,
            named_rows_that_somebody_else_has_claimed_since_are_passed_over,
            other_upstreams_rows_are_not_claimed_listed_or_released,
            claims_at_the_same_time_never_get_one_row,
            failed_rows_are_listed_in_pages_without_their_bodies,
            a_release_begins_anew_and_names_what_it_cannot_release,
            outcomes_for_what_is_not_there_are_passed_over,
            retention_deletes_what_is_confirmed_and_passes_over_the_rest,
            however_it_goes_rows_stand_as_the_protocol_says,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (messages, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::outbox::$promise(&messages).await;
        })*
    };
}

/// A refusal makes a row due at once, or fail after two.
const AT_ONCE: Patience = Patience { max_tries: 2, min_pause_ms: 0, max_pause_ms: 0 };
/// A refusal makes a row due in an hour.
const LATER: Patience = Patience { max_tries: 2, min_pause_ms: 3_600_000, max_pause_ms: 3_600_000 };

fn outgoing(n: u64) -> Numbered {
    Numbered { seq: Seq(n), message: Message { mode: Mode::Outbox, ..a_message_with(n, &format!("body {n}")) } }
}

fn refused() -> Outcome {
    Outcome::Refused { reason: "NO_ROUTE".into() }
}

async fn store(store: &(impl Messages + Outbox), seqs: impl IntoIterator<Item = u64>) {
    open(store, 1).await;
    let rows: Vec<_> = seqs.into_iter().map(outgoing).collect();
    assert!(insert(store, 1, &rows).await.iter().all(|row| *row == Inserted::Stored));
}

/// Writes one outcome for rows of incarnation 1; returns the seqs of those that failed by it.
async fn record(store: &impl Outbox, seqs: impl IntoIterator<Item = u64>, outcome: Outcome, patience: Patience) -> Vec<u64> {
    let outcomes: Vec<_> = seqs.into_iter().map(|seq| (position(1, seq), outcome.clone())).collect();
    let mut failed = store.record(&outcomes, patience).await.expect("the store is up");
    failed.sort_unstable();
    failed.into_iter().map(|position| position.seq.0).collect()
}

/// Makes rows of incarnation 1 fail.
async fn fail(store: &impl Outbox, seqs: impl IntoIterator<Item = u64> + Clone) {
    let wanted: Vec<u64> = seqs.into_iter().collect();
    for _ in 0..AT_ONCE.max_tries {
        assert_eq!(record(store, wanted.clone(), refused(), AT_ONCE).await, [0_u64; 0]);
    }
    assert_eq!(record(store, wanted.clone(), refused(), AT_ONCE).await, wanted);
}

async fn entry(store: &impl Outbox, n: u64) -> Entry {
    let found = store.entries(&[message_id(n)]).await.expect("the store is up");
    found.into_iter().next().expect("the row is there").1
}

async fn claim(store: &impl Outbox, which: Claim, limit: u32) -> Vec<u64> {
    let rows = store.claim(&upstream("shop"), &which, limit).await.expect("the store is up");
    let mut seqs: Vec<_> = rows.iter().map(|row| row.position.seq.0).collect();
    seqs.sort_unstable();
    seqs
}

fn these(seqs: impl IntoIterator<Item = u64>) -> Claim {
    since(0, seqs)
}

/// Rows that their publisher had so many milliseconds ago.
fn since(since_ms: u64, seqs: impl IntoIterator<Item = u64>) -> Claim {
    Claim::These(seqs.into_iter().map(|seq| Named { position: position(1, seq), since_ms }).collect())
}

/// As the name says, by id and by a claim.
pub async fn a_row_begins_sending_and_reads_back_with_its_mode(store: &(impl Messages + Outbox)) {
    self::store(store, [1]).await;
    let Entry { status, tries, reason, .. } = entry(store, 1).await;
    assert_eq!((status, tries, reason), (Status::Sending, 0, None));
    let stored = StoredMessage { position: position(1, 1), message: outgoing(1).message };
    assert_eq!(store.get(&[message_id(1)]).await.expect("the store is up"), std::slice::from_ref(&stored));
    let claimed = store.claim(&upstream("shop"), &these([1]), 10).await.expect("the store is up");
    assert_eq!(claimed, [stored]);
}

/// As the name says, in one batch with others.
pub async fn only_rows_of_the_outbox_have_a_status(store: &(impl Messages + Outbox)) {
    open(store, 1).await;
    let verified = Numbered { seq: Seq(2), message: a_message_with(2, "verified") };
    insert(store, 1, &[outgoing(1), verified.clone(), outgoing(3)]).await;
    let found = store.entries(&[message_id(1), message_id(2), message_id(3)]).await.expect("the store is up");
    let ids: BTreeSet<_> = found.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, BTreeSet::from([message_id(1), message_id(3)]));
    let stored = store.get(&[message_id(2)]).await.expect("the store is up");
    assert_eq!(stored[0].message, verified.message);
}

/// As the name says: they are done at their commit, as far as the watermark goes.
pub async fn a_successors_scan_leaves_rows_of_the_outbox_out(store: &(impl Messages + Outbox)) {
    open(store, 1).await;
    insert(store, 1, &[outgoing(1), Numbered { seq: Seq(2), message: a_message_with(2, "verified") }, outgoing(3)]).await;
    let seqs: Vec<_> =
        store.scan(incarnation(1), Seq::FIRST, 10).await.expect("the store is up").iter().map(|row| row.position.seq.0).collect();
    assert_eq!(seqs, [2]);
}

/// As the name says.
pub async fn a_confirm_ends_a_row_whatever_comes_later(store: &(impl Messages + Outbox)) {
    self::store(store, [1]).await;
    record(store, [1], refused(), AT_ONCE).await;
    assert_eq!(record(store, [1], Outcome::Confirmed, AT_ONCE).await, [0_u64; 0]);
    let confirmed = entry(store, 1).await;
    assert_eq!((confirmed.status, confirmed.tries), (Status::Confirmed, 1));
    for _ in 0..=AT_ONCE.max_tries {
        assert_eq!(record(store, [1], refused(), AT_ONCE).await, [0_u64; 0]);
    }
    assert_eq!(entry(store, 1).await, confirmed);
    assert_eq!(claim(store, Claim::Due, 10).await, [0_u64; 0]);
    assert_eq!(claim(store, these([1]), 10).await, [0_u64; 0]);
}

/// As the name says, with the broker's last reason.
pub async fn more_refusals_than_tries_fail_a_row_once(store: &(impl Messages + Outbox)) {
    self::store(store, [1, 2]).await;
    fail(store, [1]).await;
    let failed = entry(store, 1).await;
    assert_eq!((failed.status, failed.tries, failed.reason.as_deref()), (Status::Failed, 3, Some("NO_ROUTE")));
    assert_eq!(record(store, [1, 2], refused(), AT_ONCE).await, [0_u64; 0]);
    assert_eq!(entry(store, 1).await, failed);
    assert_eq!(store.count_failed(&upstream("shop"), 10).await.expect("the store is up"), 1);
    assert_eq!(claim(store, these([1]), 10).await, [0_u64; 0], "it waits for a human");
}

/// As the name says.
pub async fn a_late_confirm_counts_after_all(store: &(impl Messages + Outbox)) {
    self::store(store, [1]).await;
    fail(store, [1]).await;
    record(store, [1], Outcome::Confirmed, AT_ONCE).await;
    assert_eq!(entry(store, 1).await.status, Status::Confirmed);
    assert_eq!(store.count_failed(&upstream("shop"), 10).await.expect("the store is up"), 0);
}

/// As the name says.
pub async fn what_is_refused_is_due_after_its_pause(store: &(impl Messages + Outbox)) {
    self::store(store, [1, 2, 3]).await;
    assert_eq!(claim(store, Claim::Due, 10).await, [0_u64; 0], "nothing is due yet");
    record(store, [1], refused(), AT_ONCE).await;
    record(store, [2], refused(), LATER).await;
    assert_eq!(claim(store, Claim::Due, 10).await, [1]);
    assert!(entry(store, 2).await.due_at > entry(store, 3).await.due_at, "an hour is longer than a sweep takes");
}

/// As the name says.
pub async fn a_claim_moves_the_time_on_so_that_the_next_one_passes_it_over(store: &(impl Messages + Outbox)) {
    self::store(store, [1, 2]).await;
    record(store, [1, 2], refused(), AT_ONCE).await;
    assert_eq!(claim(store, Claim::Due, 10).await, [1, 2]);
    assert_eq!(claim(store, Claim::Due, 10).await, [0_u64; 0]);
    assert_eq!(entry(store, 1).await.status, Status::Sending);
}

/// As the name says.
pub async fn a_claim_is_bounded_and_takes_the_longest_due_first(store: &(impl Messages + Outbox)) {
    self::store(store, 1..=5).await;
    record(store, 1..=5, refused(), AT_ONCE).await;
    let first = claim(store, Claim::Due, 2).await;
    assert_eq!(first.len(), 2);
    let rest = claim(store, Claim::Due, 10).await;
    assert_eq!(first.into_iter().chain(rest).collect::<BTreeSet<_>>(), (1..=5).collect());
}

/// As the name says: their publisher knows that it has them alone.
pub async fn named_rows_are_claimed_before_they_are_due(store: &(impl Messages + Outbox)) {
    self::store(store, [1, 2, 3]).await;
    record(store, [2], Outcome::Confirmed, AT_ONCE).await;
    assert_eq!(claim(store, these([1, 2, 9]), 10).await, [1]);
    assert_eq!(claim(store, these([]), 10).await, [0_u64; 0]);
}

/// As the name says: their publisher had them a minute ago, and a sweeper just now.
pub async fn named_rows_that_somebody_else_has_claimed_since_are_passed_over(store: &(impl Messages + Outbox)) {
    self::store(store, [1, 2]).await;
    record(store, [1, 2], refused(), AT_ONCE).await;
    assert_eq!(claim(store, since(60_000, [2]), 10).await, [2], "nobody has had it since");
    assert_eq!(claim(store, Claim::Due, 10).await, [1]);
    assert_eq!(claim(store, since(60_000, [1]), 10).await, [0_u64; 0]);
    assert_eq!(claim(store, since(0, [1]), 10).await, [1], "its publisher is the sweeper itself");
}

/// As the name says, in one database.
pub async fn other_upstreams_rows_are_not_claimed_listed_or_released(store: &(impl Messages + Outbox)) {
    self::store(store, [1, 2]).await;
    record(store, [1], refused(), AT_ONCE).await;
    fail(store, [2]).await;
    let other = upstream("other");
    assert_eq!(store.claim(&other, &Claim::Due, 10).await.expect("the store is up"), []);
    assert_eq!(store.claim(&other, &these([1]), 10).await.expect("the store is up"), []);
    assert_eq!(store.failed(&other, None, 10).await.expect("the store is up"), []);
    assert_eq!(store.count_failed(&other, 10).await.expect("the store is up"), 0);
    assert_eq!(store.release(&other, &[message_id(2)]).await.expect("the store is up"), [Released::Unknown]);
    assert_eq!(entry(store, 2).await.status, Status::Failed);
}

/// As the name says: sweepers share a backlog without publishing anything twice.
pub async fn claims_at_the_same_time_never_get_one_row(store: &(impl Messages + Outbox)) {
    const ROWS: u64 = 200;
    self::store(store, 1..=ROWS).await;
    record(store, 1..=ROWS, refused(), AT_ONCE).await;
    let sweeper = || async {
        let mut claimed = Vec::new();
        // What another one has locked is passed over, so an empty page is not the end while others hold theirs.
        for _ in 0..ROWS {
            claimed.extend(claim(store, Claim::Due, 7).await);
        }
        claimed
    };
    let (a, b, c) = tokio::join!(sweeper(), sweeper(), sweeper());
    let mut all = [a, b, c].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=ROWS).collect::<Vec<_>>());
}

/// As the name says, by ascending id.
pub async fn failed_rows_are_listed_in_pages_without_their_bodies(store: &(impl Messages + Outbox)) {
    self::store(store, 1..=5).await;
    fail(store, [1, 2, 4, 5]).await;
    let shop = upstream("shop");
    let mut pages = Vec::new();
    let mut after: Option<MessageId> = None;
    loop {
        let page = store.failed(&shop, after, 3).await.expect("the store is up");
        let Some(last) = page.last() else { break };
        after = Some(last.stored.message.id);
        assert!(page.iter().all(|row| row.stored.message.body == Bytes::new() && row.entry.tries == 3), "{page:?}");
        pages.push(page.iter().map(|row| row.stored.position.seq.0).collect::<Vec<_>>());
    }
    assert_eq!(pages, [vec![1, 2, 4], vec![5]]);
    assert_eq!(store.count_failed(&shop, 3).await.expect("the store is up"), 3, "counted up to the limit");
}

/// As the name says; repeating it changes nothing.
pub async fn a_release_begins_anew_and_names_what_it_cannot_release(store: &(impl Messages + Outbox)) {
    open(store, 1).await;
    let verified = Numbered { seq: Seq(4), message: a_message_with(4, "verified") };
    insert(store, 1, &[outgoing(1), outgoing(2), outgoing(3), verified]).await;
    fail(store, [1]).await;
    record(store, [2], Outcome::Confirmed, AT_ONCE).await;
    let ids: Vec<_> = [1, 2, 3, 4, 9].map(message_id).into();
    let others =
        [Released::Otherwise(Status::Confirmed), Released::Otherwise(Status::Sending), Released::Unknown, Released::Unknown];
    let shop = upstream("shop");
    let answers = store.release(&shop, &ids).await.expect("the store is up");
    assert_eq!((answers[0], &answers[1..]), (Released::Released, &others[..]));
    let again = store.release(&shop, &ids).await.expect("the store is up");
    assert_eq!((again[0], &again[1..]), (Released::Otherwise(Status::Sending), &others[..]));
    let released = entry(store, 1).await;
    assert_eq!((released.status, released.tries), (Status::Sending, 0));
    assert_eq!(claim(store, Claim::Due, 10).await, [1], "at once");
}

/// As the name says.
pub async fn outcomes_for_what_is_not_there_are_passed_over(store: &(impl Messages + Outbox)) {
    open(store, 1).await;
    insert(store, 1, &[Numbered { seq: Seq(1), message: a_message_with(1, "verified") }, outgoing(2)]).await;
    assert_eq!(record(store, [1, 2, 9], Outcome::Confirmed, AT_ONCE).await, [0_u64; 0]);
    assert_eq!(entry(store, 2).await.status, Status::Confirmed);
    assert_eq!(store.entries(&[message_id(1), message_id(9)]).await.expect("the store is up"), []);
    assert_eq!(store.record(&[], AT_ONCE).await.expect("the store is up"), []);
}

/// As the name says: however many wait for a human, they fill no page.
pub async fn retention_deletes_what_is_confirmed_and_passes_over_the_rest(store: &(impl Messages + Outbox)) {
    let old = |n| Numbered { message: Message { sent_at: OLD, ..outgoing(n).message }, ..outgoing(n) };
    open(store, 1).await;
    open(store, LAST).await;
    insert(store, 1, &(1..=6).map(old).collect::<Vec<_>>()).await;
    fail(store, [1, 2]).await;
    record(store, [4, 6], Outcome::Confirmed, AT_ONCE).await;
    let shop = upstream("shop");
    store.close(incarnation(1)).await.expect("the store is up");
    for expected in [1, 1, 0] {
        assert_eq!(store.delete_expired(&shop, EXPIRY, 1).await.expect("the store is up"), expected);
    }
    let left = store.get(&(1..=6).map(message_id).collect::<Vec<_>>()).await.expect("the store is up");
    assert_eq!(left.iter().map(|row| row.position.seq.0).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3, 5]));
    record(store, [1, 2, 3, 5], Outcome::Confirmed, AT_ONCE).await;
    assert_eq!(store.delete_expired(&shop, EXPIRY, 10).await.expect("the store is up"), 4);
    open(store, 1).await;
    assert_eq!(insert(store, 1, &[outgoing(1)]).await, [Inserted::Stored], "its incarnation went with the last of them");
}

/// As the name says: a random walk, beside the adapter in memory, which asks the protocol's own functions.
pub async fn however_it_goes_rows_stand_as_the_protocol_says(store: &(impl Messages + Outbox)) {
    const STEPS: u64 = 300;
    let (memory, mut dice, mut rows) = (MemoryMessages::default(), Dice::new(11), 0);
    let shop = upstream("shop");
    open(store, 1).await;
    open(&memory, 1).await;
    let mut ends = BTreeMap::new();
    for step in 0..STEPS {
        let some: Vec<u64> = (1..=rows).filter(|_| dice.below(4) == 0).collect();
        match dice.below(6) {
            0 => {
                let batch: Vec<_> = (rows + 1..=rows + 1 + dice.below(3)).map(outgoing).collect();
                rows += u64::try_from(batch.len()).unwrap_or(0);
                assert_eq!(insert(store, 1, &batch).await, insert(&memory, 1, &batch).await);
            }
            1 if dice.below(3) == 0 => {
                record(store, some.clone(), Outcome::Confirmed, AT_ONCE).await;
                record(&memory, some, Outcome::Confirmed, AT_ONCE).await;
            }
            1 | 2 => {
                let patience = if dice.below(2) == 0 { AT_ONCE } else { LATER };
                let failed = record(store, some.clone(), refused(), patience).await;
                assert_eq!(failed, record(&memory, some, refused(), patience).await, "step {step}");
            }
            3 => assert_eq!(claim(store, Claim::Due, 1_000).await, claim(&memory, Claim::Due, 1_000).await, "step {step}"),
            4 => {
                assert_eq!(
                    claim(store, these(some.clone()), 1_000).await,
                    claim(&memory, these(some), 1_000).await,
                    "step {step}"
                );
            }
            _ => {
                let ids: Vec<_> = some.into_iter().map(message_id).collect();
                let answers = store.release(&shop, &ids).await.expect("the store is up");
                assert_eq!(answers, memory.release(&shop, &ids).await.expect("it is up"), "step {step}");
            }
        }
        let stand = standing(store, rows).await;
        assert_eq!(stand, standing(&memory, rows).await, "step {step}");
        ends = stand;
    }
    let count = |wanted| ends.values().filter(|(status, ..)| *status == wanted).count();
    assert!(count(Status::Confirmed) > 5 && count(Status::Sending) + count(Status::Failed) > 5, "{ends:?}");
}

async fn standing(store: &impl Outbox, rows: u64) -> BTreeMap<MessageId, (Status, u32, Option<String>)> {
    let ids: Vec<_> = (1..=rows).map(message_id).collect();
    let found = store.entries(&ids).await.expect("the store is up");
    found.into_iter().map(|(id, entry)| (id, (entry.status, entry.tries, entry.reason))).collect()
}
