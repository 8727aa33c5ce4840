use countersign_delivery::digest::Digest;
use countersign_delivery::ports::messages::IncarnationState;
use countersign_delivery::{IncarnationId, Seq};
use countersign_testkit::build::{NOW, subscription, uuid};

use super::*;
use crate::stage::{Stage, a_movement, an_order, pass};

fn heartbeat(n: u64, settled_until: Timestamp) -> Heartbeat {
    let (incarnation, state) = (IncarnationId(uuid(n)), IncarnationState::Open);
    Heartbeat { incarnation, counter: 0, watermark: Seq::FIRST, settled_until, adopter: None, state }
}

/// The minute in which a stage's clock begins.
fn first_minute() -> Window {
    window(NOW.as_millis(), NOW.plus_millis(60_000).as_millis()).unwrap()
}

#[test]
fn a_window_that_is_not_right_is_told_what_would_be() {
    assert!(window(0, 86_400_000).is_ok());
    for (from_ms, until_ms, words) in [
        (1, 60_000, "from_ms is 1: give a whole minute"),
        (0, 60_001, "until_ms is 60001: give a whole minute"),
        (-60_000, 0, "from_ms is -60000"),
        (60_000, 60_000, "the window is empty"),
        (120_000, 60_000, "the window is empty"),
        (0, 86_460_000, "at most 86400000 are answered at once"),
    ] {
        let said = window(from_ms, until_ms).unwrap_err();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn settled_is_what_the_slowest_incarnation_says_and_never_later_than_now() {
    assert_eq!(settled_until(&[], NOW), Timestamp::default(), "nobody has said anything");
    let (early, late) = (NOW.minus_millis(5_000), NOW.plus_millis(5_000));
    assert_eq!(settled_until(&[heartbeat(1, late)], NOW), NOW);
    assert_eq!(settled_until(&[heartbeat(1, late), heartbeat(2, early), heartbeat(3, NOW)], NOW), early);
}

#[test]
fn what_may_be_deleted_is_not_said_to_be_kept() {
    assert_eq!(kept_from(0, NOW), None, "for ever");
    let kept = kept_from(3_600_000, NOW).unwrap();
    assert!(kept > NOW.minus_millis(3_600_000), "younger than what is old enough to be deleted");
}

#[tokio::test(start_paused = true)]
async fn sums_hold_what_the_list_lists_by_subscription() {
    let stage = Stage::new();
    let process = stage.start().await;
    for n in 0..7 {
        process.upstream.send(an_order(&n.to_string())).await;
    }
    process.upstream.send(a_movement("1")).await;
    pass(2_000).await;

    let stored = process.upstream.sums(first_minute()).await.unwrap();
    assert!(stored.kept_from.is_some());
    let counts: Vec<_> = stored.sums.iter().map(|(name, minutes)| (name.as_str(), minutes.len())).collect();
    assert_eq!(counts, [("orders", 1), ("stock", 1)]);
    for (name, count) in [("orders", 7), ("stock", 1)] {
        let (mut digest, mut listed, mut after) = (Digest::default(), Vec::new(), None);
        loop {
            let (rows, next) = process.upstream.list_stored(first_minute(), &subscription(name), after, 3).await.unwrap();
            assert!(rows.len() <= 3);
            for row in rows {
                digest.add(row.id, &row.fingerprint);
                listed.push(row.id);
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert!(listed.is_sorted() && listed.len() == count, "{listed:?}");
        assert_eq!(stored.sums[&subscription(name)][&NOW], digest);
    }
}

#[tokio::test(start_paused = true)]
async fn rows_of_the_outbox_count_only_with_a_check() {
    for (check, counted) in [(true, 1), (false, 0)] {
        let stage = Stage::new().with_route(Mode::Outbox, check);
        let process = stage.start().await;
        process.upstream.send(an_order("1")).await;
        pass(2_000).await;
        let sums = process.upstream.sums(first_minute()).await.unwrap().sums;
        assert_eq!(sums.len(), counted, "with a check: {check}; {sums:?}");
    }
}
