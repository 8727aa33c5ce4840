//! What [`Archive`] promises.

use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::ClaimKey;
use countersign_delivery::{Fingerprint, Timestamp};

use super::Waiting;
use crate::build::{message_id, subscription};

/// Makes one test of each promise. `$setup` is an async function from the test's name to `(impl Archive, impl Waiting, _)`, whose last part
/// is kept until the test is over.
#[macro_export]
macro_rules! archive_suite {
    ($setup:path) => {
        $crate::archive_suite!($setup =>
            what_is_recorded_is_found_in_order,
            what_is_there_stays_as_it_is,
            a_batch_may_name_a_message_twice_or_be_empty,
            what_was_accepted_and_done_long_ago_is_forgotten,
            what_was_done_just_now_is_kept_however_old_it_is,
            what_was_accepted_late_is_kept,
            a_forgetter_whose_clock_is_slow_forgets_nothing,
            a_page_is_bounded_and_takes_the_oldest_first,
            other_subscriptions_keep_theirs,
            what_is_forgotten_may_be_recorded_anew,
            forgetters_at_the_same_time_forget_each_row_once,
            every_effect_is_recorded_found_and_forgotten_by_itself,
            another_fingerprint_is_found_whatever_effect_it_had,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (archive, time, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::archive::$promise(&archive, &time).await;
        })*
    };
}

/// Longer than one reading of the archive's clock.
const A_MOMENT_MS: u64 = 50;
/// Older than any row of a test.
const HOUR_MS: u64 = 3_600_000;
/// A forgetter's clock that leaves the word to the archive's own.
const FAST: Timestamp = Timestamp::from_millis(i64::MAX);
/// A number whose message is accepted long after any test.
const LATE: u64 = 1 << 47;

fn key_of(n: u64, of: &str, body: &str) -> ClaimKey {
    let fingerprint = Fingerprint::of("order.created", "text/plain", body.as_bytes());
    ClaimKey { subscription: subscription(of), message_id: message_id(n), fingerprint, effect_epoch: 0 }
}

/// Message `n`, which was accepted long ago.
fn key(n: u64) -> ClaimKey {
    key_of(n, "inventory", &format!("body {n}"))
}

async fn record(archive: &impl Archive, keys: &[ClaimKey]) {
    archive.record(keys).await.expect("the archive is up");
}

async fn find(archive: &impl Archive, keys: &[ClaimKey]) -> Vec<Option<Fingerprint>> {
    archive.find(keys).await.expect("the archive is up")
}

/// Which of the messages below `end` are there.
async fn left(archive: &impl Archive, end: u64) -> Vec<u64> {
    let keys: Vec<_> = (1..end).map(key).collect();
    let found = find(archive, &keys).await;
    (1..end).zip(found).filter_map(|(n, found)| found.map(|_| n)).collect()
}

/// Forgets whatever is older than nothing at all.
async fn forget(archive: &impl Archive, limit: u32) -> u64 {
    archive.forget(&subscription("inventory"), 0, FAST, limit).await.expect("the archive is up")
}

/// As the name says; what is not there is none, another subscription's included.
pub async fn what_is_recorded_is_found_in_order(archive: &impl Archive, _: &impl Waiting) {
    let even: Vec<_> = (2..=600).step_by(2).map(key).collect();
    record(archive, &even).await;
    let all: Vec<_> = (1..=600).rev().map(key).collect();
    let expected: Vec<_> = (1..=600).rev().map(|n| (n % 2 == 0).then(|| key(n).fingerprint)).collect();
    assert_eq!(find(archive, &all).await, expected);
    assert_eq!(find(archive, &[key_of(2, "audit", "body 2")]).await, [None]);
}

/// As the name says, whatever its fingerprint.
pub async fn what_is_there_stays_as_it_is(archive: &impl Archive, _: &impl Waiting) {
    let impostor = key_of(1, "inventory", "impostor");
    for _ in 0..2 {
        record(archive, &[key(1)]).await;
        record(archive, &[key(2), impostor.clone()]).await;
    }
    assert_eq!(find(archive, &[impostor, key(2)]).await, [Some(key(1).fingerprint), Some(key(2).fingerprint)]);
}

/// As the name says.
pub async fn a_batch_may_name_a_message_twice_or_be_empty(archive: &impl Archive, _: &impl Waiting) {
    record(archive, &[]).await;
    assert_eq!(find(archive, &[]).await, []);
    record(archive, &[key(1), key(2), key(1)]).await;
    let found = find(archive, &[key(1), key(1), key(3)]).await;
    assert_eq!(found, [Some(key(1).fingerprint), Some(key(1).fingerprint), None]);
}

/// As the name says.
pub async fn what_was_accepted_and_done_long_ago_is_forgotten(archive: &impl Archive, time: &impl Waiting) {
    record(archive, &[key(1), key(2)]).await;
    time.pass(A_MOMENT_MS).await;
    assert_eq!(forget(archive, 100).await, 2);
    assert_eq!(left(archive, 5).await, [0_u64; 0]);
    assert_eq!(forget(archive, 100).await, 0);
}

/// As the name says: it may come again for as long.
pub async fn what_was_done_just_now_is_kept_however_old_it_is(archive: &impl Archive, time: &impl Waiting) {
    record(archive, &[key(1)]).await;
    time.pass(A_MOMENT_MS).await;
    let forgotten = archive.forget(&subscription("inventory"), HOUR_MS, FAST, 100).await.expect("the archive is up");
    assert_eq!(forgotten, 0);
    assert_eq!(left(archive, 5).await, [1]);
}

/// As the name says: a clock of upstream that is ahead makes it stay longer.
pub async fn what_was_accepted_late_is_kept(archive: &impl Archive, time: &impl Waiting) {
    record(archive, &[key(1), key(LATE)]).await;
    time.pass(A_MOMENT_MS).await;
    assert_eq!(forget(archive, 100).await, 1);
    assert_eq!(find(archive, &[key(1), key(LATE)]).await, [None, Some(key(LATE).fingerprint)]);
}

/// As the name says: both clocks must agree.
pub async fn a_forgetter_whose_clock_is_slow_forgets_nothing(archive: &impl Archive, time: &impl Waiting) {
    record(archive, &[key(1)]).await;
    time.pass(A_MOMENT_MS).await;
    for slow in [Timestamp::from_millis(0), Timestamp::from_millis(HOUR_MS.cast_signed())] {
        let forgotten = archive.forget(&subscription("inventory"), 0, slow, 100).await.expect("the archive is up");
        assert_eq!(forgotten, 0, "{slow:?}");
    }
    assert_eq!(left(archive, 5).await, [1]);
}

/// As the name says.
pub async fn a_page_is_bounded_and_takes_the_oldest_first(archive: &impl Archive, time: &impl Waiting) {
    for n in [4, 2, 5, 1, 3] {
        record(archive, &[key(n)]).await;
    }
    time.pass(A_MOMENT_MS).await;
    assert_eq!(forget(archive, 2).await, 2);
    assert_eq!(left(archive, 9).await, [3, 4, 5]);
    assert_eq!(forget(archive, 0).await, 0);
    assert_eq!(forget(archive, 2).await, 2);
    assert_eq!(left(archive, 9).await, [5]);
    assert_eq!(forget(archive, 2).await, 1);
}

/// As the name says, of the same messages.
pub async fn other_subscriptions_keep_theirs(archive: &impl Archive, time: &impl Waiting) {
    let elsewhere = key_of(1, "audit", "body 1");
    record(archive, &[key(1), elsewhere.clone()]).await;
    time.pass(A_MOMENT_MS).await;
    assert_eq!(forget(archive, 100).await, 1);
    assert_eq!(find(archive, &[key(1), elsewhere.clone()]).await, [None, Some(elsewhere.fingerprint)]);
}

/// As the name says, as another one too.
pub async fn what_is_forgotten_may_be_recorded_anew(archive: &impl Archive, time: &impl Waiting) {
    record(archive, &[key(1)]).await;
    time.pass(A_MOMENT_MS).await;
    assert_eq!(forget(archive, 1).await, 1);
    let other = key_of(1, "inventory", "another");
    record(archive, std::slice::from_ref(&other)).await;
    assert_eq!(find(archive, &[key(1)]).await, [Some(other.fingerprint)]);
}

/// As the name says.
pub async fn forgetters_at_the_same_time_forget_each_row_once(archive: &impl Archive, time: &impl Waiting) {
    const ROWS: u64 = 60;
    record(archive, &(1..=ROWS).map(key).collect::<Vec<_>>()).await;
    time.pass(A_MOMENT_MS).await;
    let forgetter = || async {
        let mut forgotten = 0;
        loop {
            match forget(archive, 7).await {
                0 => return forgotten,
                some => forgotten += some,
            }
        }
    };
    let (a, b, c) = tokio::join!(forgetter(), forgetter(), forgetter());
    let rest = forgetter().await;
    assert_eq!(a + b + c + rest, ROWS, "{a} {b} {c} {rest}");
    assert_eq!(left(archive, ROWS + 1).await, [0_u64; 0]);
}

fn further(effect_epoch: u32, key: ClaimKey) -> ClaimKey {
    ClaimKey { effect_epoch, ..key }
}

/// As the name says, by one batch and a page of one.
pub async fn every_effect_is_recorded_found_and_forgotten_by_itself(archive: &impl Archive, time: &impl Waiting) {
    let all: Vec<ClaimKey> = (0..4).map(|epoch| further(epoch, key(1))).collect();
    record(archive, &all[1..2]).await;
    let done = Some(key(1).fingerprint);
    assert_eq!(find(archive, &all).await, [None, done.clone(), None, None]);
    record(archive, &[all[0].clone(), all[1].clone(), all[2].clone(), all[0].clone()]).await;
    assert_eq!(find(archive, &all).await, [done.clone(), done.clone(), done.clone(), None]);
    time.pass(A_MOMENT_MS).await;
    assert_eq!(forget(archive, 1).await, 1);
    let left = find(archive, &all).await.into_iter().flatten().count();
    assert_eq!((left, forget(archive, 100).await), (2, 2));
    assert_eq!(find(archive, &all).await, [None, None, None, None]);
}

/// As the name says.
pub async fn another_fingerprint_is_found_whatever_effect_it_had(archive: &impl Archive, _: &impl Waiting) {
    record(archive, &[key(1), further(2, key(2))]).await;
    let impostor = |n, epoch| further(epoch, key_of(n, "inventory", "impostor"));
    let (first, second) = (Some(key(1).fingerprint), Some(key(2).fingerprint));
    let found = find(archive, &[impostor(1, 0), impostor(1, 1), impostor(2, 0), impostor(2, 2), impostor(2, 3)]).await;
    assert_eq!(found, [first.clone(), first, second.clone(), second.clone(), second]);
}
