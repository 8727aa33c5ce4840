//! What [`Stored`] promises, over the rows that [`Messages`] and [`Outbox`] write.

use countersign_delivery::outbox::{Outcome, Patience};
use countersign_delivery::ports::messages::{Messages, Numbered};
use countersign_delivery::ports::outbox::Outbox;
use countersign_delivery::ports::stored::{Stored, StoredPage, StoredRow};
use countersign_delivery::reconcile::{MINUTE_MS, Window};
use countersign_delivery::topology::Mode;
use countersign_delivery::{Message, MessageId, Seq, Timestamp};

use crate::build::{a_message_with, incarnation, message_id, position, subscription, upstream};
use crate::conformance::messages::{OPENED, insert, open};

/// Makes one test of each promise. `$setup` is an async function from the test's name to `(impl Messages + Outbox + Stored, _)`; the second
/// part is kept until the test has ended.
#[macro_export]
macro_rules! stored_suite {
    ($setup:path) => {
        $crate::stored_suite!($setup =>
            a_window_holds_the_stored_messages_that_were_minted_in_it,
            looks_follow_each_other_without_a_gap_whatever_lies_between,
            other_upstreams_messages_are_left_out,
            rows_of_the_outbox_count_once_they_are_confirmed,
            a_tombstone_is_not_stored,
            ids_that_say_their_places_and_others_are_one_order_of_time,
            windows_begin_and_end_where_they_should_in_every_incarnation,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (messages, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::stored::$promise(&messages).await;
        })*
    };
}

/// The message that was minted at this millisecond.
fn minted(at: u64, mode: Mode) -> Numbered {
    let required = vec![subscription("audit"), subscription("inventory")];
    Numbered { seq: Seq(at), message: Message { mode, required, ..a_message_with(at, &format!("body {at}")) } }
}

fn window(since_ms: u64, until_ms: u64) -> Window {
    let at = |millis| Timestamp::default().plus_millis(millis);
    Window { since: at(since_ms), until: at(until_ms) }
}

fn row_of(one: &Numbered) -> StoredRow {
    let Message { id, fingerprint, sent_at, required, mode, exchange, routing_key, .. } = one.message.clone();
    StoredRow { id, fingerprint, sent_at, required, mode, exchange, routing_key }
}

async fn look(store: &impl Stored, within: Window, after: Option<MessageId>, limit: u32) -> StoredPage {
    store.stored(&upstream("shop"), within, after, limit).await.expect("the store is up")
}

async fn ids(store: &impl Stored) -> Vec<MessageId> {
    let page = look(store, window(0, MINUTE_MS), None, 1_000).await;
    assert_eq!(page.next, None, "it was not full");
    page.rows.iter().map(|row| row.id).collect()
}

/// Both ends to the millisecond, in the order of time and not of places; everything that sums need.
pub async fn a_window_holds_the_stored_messages_that_were_minted_in_it(store: &(impl Messages + Stored)) {
    open(store, 1).await;
    let mut rows =
        [MINUTE_MS - 1, MINUTE_MS, MINUTE_MS + 5, 2 * MINUTE_MS - 1, 2 * MINUTE_MS].map(|at| minted(at, Mode::Verified));
    for (place, row) in rows.iter_mut().rev().enumerate() {
        row.seq = Seq(u64::try_from(place).unwrap_or(0) + 1);
    }
    insert(store, 1, &rows).await;
    let page = look(store, window(MINUTE_MS, 2 * MINUTE_MS), None, 100).await;
    assert_eq!(page, StoredPage { rows: rows[1..4].iter().map(row_of).collect(), next: None });
    assert_eq!(look(store, window(3 * MINUTE_MS, 4 * MINUTE_MS), None, 100).await, StoredPage::default());
}

/// Others' messages use up a look, so that none is long.
pub async fn looks_follow_each_other_without_a_gap_whatever_lies_between(store: &(impl Messages + Stored)) {
    open(store, 1).await;
    store.open(&upstream("other"), incarnation(2), OPENED).await.expect("an incarnation opens");
    let (own, others): (Vec<u64>, Vec<u64>) = (1..=20).partition(|n| *n < 4 || *n > 12);
    let rows = |of: &[u64]| of.iter().map(|n| minted(*n, Mode::Verified)).collect::<Vec<_>>();
    insert(store, 1, &rows(&own)).await;
    insert(store, 2, &rows(&others)).await;
    let (mut found, mut after, mut looks) = (Vec::new(), None, 0);
    loop {
        let page = look(store, window(0, MINUTE_MS), after, 5).await;
        assert!(page.rows.len() <= 5, "a look is bounded");
        found.extend(page.rows.iter().map(|row| row.id));
        looks += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, own.iter().map(|n| message_id(*n)).collect::<Vec<_>>());
    assert_eq!(looks, 5, "twenty rows of both, five at a time, and one look to see that there are no more");
}

/// Another upstream may keep its messages in the same tables.
pub async fn other_upstreams_messages_are_left_out(store: &(impl Messages + Stored)) {
    open(store, 1).await;
    store.open(&upstream("other"), incarnation(2), OPENED).await.expect("an incarnation opens");
    insert(store, 1, &[minted(1, Mode::Verified)]).await;
    insert(store, 2, &[minted(2, Mode::Verified)]).await;
    assert_eq!(ids(store).await, [message_id(1)]);
}

/// What waits for the broker, or for a human, is nobody's to sign for.
pub async fn rows_of_the_outbox_count_once_they_are_confirmed(store: &(impl Messages + Outbox + Stored)) {
    open(store, 1).await;
    let rows = [minted(1, Mode::Outbox), minted(2, Mode::Outbox), minted(3, Mode::Outbox), minted(4, Mode::Verified)];
    insert(store, 1, &rows).await;
    assert_eq!(ids(store).await, [message_id(4)], "none is confirmed");
    let outcomes = [(position(1, 1), Outcome::Confirmed), (position(1, 2), Outcome::Refused { reason: "NO_ROUTE".into() })];
    let at_once = Patience { max_tries: 0, min_pause_ms: 0, max_pause_ms: 0 };
    store.record(&outcomes, at_once).await.expect("the store is up");
    let page = look(store, window(0, MINUTE_MS), None, 100).await;
    assert_eq!(page.rows, [row_of(&rows[0]), row_of(&rows[3])], "one is confirmed, one waits for a human, one is on its way");
}

/// What upstream mints at this millisecond under this place.
fn under_its_place(of: u64, seq: u64, at: u64) -> Numbered {
    let minted_at = Timestamp::default().plus_millis(at);
    let message = a_message_with(seq, &format!("{of}/{seq}")).under(MessageId::at(incarnation(of), Seq(seq), minted_at));
    Numbered { seq: Seq(seq), message: Message { sent_at: minted_at, ..message } }
}

/// All rows of a window, so many a look.
async fn all(store: &impl Stored, within: Window, limit: u32) -> Vec<StoredRow> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = look(store, within, after, limit).await;
        assert!(page.rows.len() <= usize::try_from(limit).unwrap_or(usize::MAX), "a look is bounded");
        rows.extend(page.rows);
        after = page.next;
        if after.is_none() {
            return rows;
        }
    }
}

/// As the name says: an older version and two processes of this one wrote at the same time.
pub async fn ids_that_say_their_places_and_others_are_one_order_of_time(store: &(impl Messages + Stored)) {
    for n in 1..=3 {
        open(store, n).await;
    }
    store.open(&upstream("other"), incarnation(4), OPENED).await.expect("an incarnation opens");
    let older: Vec<_> = (1..=9).map(|n| minted(n * 10, Mode::Verified)).collect();
    let places = |of: u64, offset: u64| (1..=9).map(|seq| under_its_place(of, seq, seq * 10 + offset)).collect::<Vec<_>>();
    let (one, two, others) = (places(2, 3), places(3, 0), places(4, 5));
    insert(store, 1, &older).await;
    insert(store, 2, &one).await;
    insert(store, 3, &two).await;
    insert(store, 4, &others).await;
    let mut expected: Vec<_> = older.iter().chain(&one).chain(&two).map(row_of).collect();
    expected.sort_by_key(|row| row.id);
    for limit in [1, 2, 5, 7, 1_000] {
        assert_eq!(all(store, window(0, MINUTE_MS), limit).await, expected, "{limit} a look");
    }
}

/// Whatever the window, with places that are empty, taken by tombstones, or minted in the same millisecond, and while a clock was behind its ids.
pub async fn windows_begin_and_end_where_they_should_in_every_incarnation(store: &(impl Messages + Stored)) {
    let mut rows = Vec::new();
    for of in 1..=3 {
        open(store, of).await;
        // Two or three in a millisecond; every fourth place is empty, every eighth has a tombstone.
        let minted: Vec<_> =
            (1..=40).filter(|seq| seq % 4 != of % 4).map(|seq| under_its_place(of, seq, 100 * of + seq * 2 / 5)).collect();
        let behind = |row: Numbered| match row.seq.0 {
            9..20 => Numbered { message: Message { sent_at: Timestamp::default(), ..row.message }, ..row },
            _ => row,
        };
        let minted: Vec<_> = minted.into_iter().map(behind).collect();
        insert(store, of, &minted).await;
        for seq in (1..=40).filter(|seq| seq % 8 == of) {
            store.entomb(position(of, seq)).await.expect("the store is up");
        }
        rows.extend(minted);
    }
    rows.sort_by_key(|row| row.message.id);
    for (since, until) in [(0, 1_000), (0, 1), (100, 101), (103, 111), (99, 205), (116, 200), (208, 309), (317, 400), (400, 500)]
    {
        let within = window(since, until);
        let expected: Vec<_> = rows.iter().filter(|row| within.contains(row.message.id.minted_at())).map(row_of).collect();
        for limit in [1, 3, 1_000] {
            assert_eq!(all(store, within, limit).await, expected, "from {since} to {until}, {limit} a look");
        }
    }
}

/// What was rolled back was never sent.
pub async fn a_tombstone_is_not_stored(store: &(impl Messages + Stored)) {
    open(store, 1).await;
    insert(store, 1, &[minted(1, Mode::Verified)]).await;
    store.entomb(position(1, 2)).await.expect("the store is up");
    assert_eq!(ids(store).await, [message_id(1)]);
}
