use std::sync::Arc;

use countersign_delivery::topology::{Mode, Route};
use countersign_testkit::build::subscription;

use super::*;
use crate::accept::NewMessage;
use crate::config::UpstreamSection;
use crate::refusal::Refusal;
use crate::send::Outcome;
use crate::stage::{Stage, a_movement, an_order, pass, section};

fn set(names: &[&str]) -> Vec<SubscriptionName> {
    names.iter().map(|name| subscription(name)).collect()
}

/// What happens to the marks, one step after the other.
enum Step {
    Nacked(&'static [&'static str]),
    Confirmed(&'static [&'static str]),
    Passes(Duration),
    Refused(&'static [&'static str]),
    Taken(&'static [&'static str]),
}

#[tokio::test]
async fn a_set_is_refused_from_a_nack_to_a_confirm_or_until_its_mark_runs_out() {
    use Step::{Confirmed, Nacked, Passes, Refused, Taken};
    let rows: [(&str, Vec<Step>); 9] = [
        ("nothing is known", vec![Taken(&["a"])]),
        ("a nack marks its set and no other", vec![Nacked(&["a"]), Refused(&["a"]), Taken(&["b"])]),
        ("what includes a marked set is refused", vec![Nacked(&["a"]), Refused(&["a", "b"])]),
        ("what is included in a marked set is not", vec![Nacked(&["a", "b"]), Taken(&["a"]), Refused(&["a", "b"])]),
        ("a confirm clears", vec![Nacked(&["a"]), Confirmed(&["a"]), Taken(&["a"])]),
        ("a confirm clears what it includes", vec![Nacked(&["a"]), Confirmed(&["a", "b"]), Taken(&["a"])]),
        ("a confirm of less does not", vec![Nacked(&["a", "b"]), Confirmed(&["a"]), Refused(&["a", "b"])]),
        (
            "after a while without news one message finds out",
            vec![Nacked(&["a"]), Passes(MARK), Taken(&["a"]), Refused(&["a"]), Passes(MARK), Taken(&["a"]), Refused(&["a"])],
        ),
        (
            "news renews the mark",
            vec![Nacked(&["a"]), Passes(MARK * 3 / 4), Nacked(&["a"]), Passes(MARK * 3 / 4), Refused(&["a"])],
        ),
    ];
    for (name, steps) in rows {
        let (mut marks, mut now) = (Marks::default(), Instant::now());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Nacked(names) => drop(marks.learn(&set(names), true, now)),
                Confirmed(names) => drop(marks.learn(&set(names), false, now)),
                Passes(time) => now += time,
                Refused(names) => assert!(marks.refuses(&set(names), now), "{name}: step {number}"),
                Taken(names) => assert!(!marks.refuses(&set(names), now), "{name}: step {number}"),
            }
        }
    }
}

#[tokio::test]
async fn marks_are_bounded_and_make_room_when_they_run_out() {
    let (mut marks, now) = (Marks::default(), Instant::now());
    for number in 0..=MOST {
        let name = format!("s{number}");
        assert_eq!(marks.learn(&set(&[&name]), true, now), number < MOST, "{name}");
    }
    assert!(!marks.refuses(&set(&[&format!("s{MOST}")]), now));
    assert!(marks.learn(&set(&["late"]), true, now + MARK));
    assert_eq!(marks.0.len(), 1);
}

#[test]
fn the_last_outcome_that_says_anything_counts() {
    use Published::{Confirmed, Nacked, Unknown};
    let returned = Published::Returned { reason: "NO_ROUTE".into() };
    let rows = [
        (vec![], None),
        (vec![Unknown, returned.clone()], None),
        (vec![Confirmed, Nacked, returned], Some(true)),
        (vec![Nacked, Confirmed, Unknown], Some(false)),
    ];
    for (outcomes, expected) in rows {
        assert_eq!(newest(&outcomes), expected, "{outcomes:?}");
    }
}

/// A stage whose route refuses what is for a full queue.
fn a_stage_that_rejects() -> Stage {
    a_stage_of(Mode::Verified)
}

fn a_stage_of(mode: Mode) -> Stage {
    let mut stage = Stage::new();
    stage.topology.subscriptions[0].max_length = Some(20);
    let route =
        Route { exchange: "countersign.messages".into(), routing_key: "#".into(), mode, check: false, on_full: OnFull::Reject };
    stage.topology.routes.push(route);
    stage.with_topology()
}

#[tokio::test(start_paused = true)]
async fn what_is_for_a_full_queue_is_refused_before_it_is_stored_and_the_rest_is_not() {
    let stage = a_stage_that_rejects();
    // The broker's first answers are nacks, and then it takes messages.
    let section = UpstreamSection { republish_min_ms: 1_500, ..section() };
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    pass(1).await;
    stage.broker.nack_next(1);
    let keyed = || NewMessage { idempotency_key: "first".into(), ..an_order("1") };
    let sending = process.upstream.send(keyed());
    let others = async {
        pass(500).await;
        let other = NewMessage { idempotency_key: "first".into(), ..an_order("other") };
        let batch = vec![an_order("2"), a_movement("3"), keyed(), other, an_order("4")];
        process.upstream.send_batch(batch).await.unwrap()
    };
    let (first, outcomes) = tokio::join!(sending, others);
    let Outcome::Confirmed(first) = first else { panic!("kept, and published again: {first:?}") };
    let refused = |outcome: &Outcome| match outcome {
        Outcome::Refused(refusal @ Refusal::Full { .. }) => refusal.to_string(),
        outcome => panic!("{outcome:?}"),
    };
    for outcome in [&outcomes[0], &outcomes[4]] {
        let said = refused(outcome);
        assert!(said.contains("orders (max_length 20)") && said.contains("not stored") && said.contains("1000 ms"), "{said}");
    }
    assert!(matches!(outcomes[1], Outcome::Confirmed(_)), "stock has room: {outcomes:?}");
    assert!(matches!(&outcomes[2], Outcome::Committed(known) if known.duplicate && known.id == first.id), "{outcomes:?}");
    assert!(matches!(&outcomes[3], Outcome::Refused(Refusal::Conflict { id, .. }) if *id == first.id), "{outcomes:?}");
    assert_eq!(stage.stored().await.len(), 2, "what was refused is not stored");
    // The kept one was confirmed meanwhile, which cleared the mark.
    assert!(matches!(process.upstream.send(an_order("5")).await, Outcome::Confirmed(_)));
}

#[tokio::test(start_paused = true)]
async fn without_news_one_message_finds_out_whether_there_is_room() {
    let stage = a_stage_that_rejects();
    let section = UpstreamSection { republish_min_ms: 60_000, republish_max_ms: 60_000, ..section() };
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    pass(1).await;
    stage.broker.nack_next(2);
    assert!(matches!(process.upstream.send(an_order("1")).await, Outcome::Committed(_)));
    pass(u64::try_from(MARK.as_millis()).unwrap()).await;
    // Nothing was heard since, so this one is let through, and nacked, too.
    assert!(matches!(process.upstream.send(an_order("2")).await, Outcome::Committed(_)));
    pass(u64::try_from(MARK.as_millis()).unwrap()).await;
    let outcomes = process.upstream.send_batch(vec![an_order("3"), an_order("4")]).await.unwrap();
    let words: Vec<_> = outcomes.iter().map(Outcome::word).collect();
    assert_eq!(words, ["confirmed", "refused"], "one of a batch finds out: {outcomes:?}");
    assert!(matches!(process.upstream.send(an_order("4")).await, Outcome::Confirmed(_)));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_nobody_where_no_route_says_so() {
    let stage = Stage::new();
    let process = stage.start().await;
    stage.broker.nack_next(2);
    let outcomes = process.upstream.send_batch(vec![an_order("1"), an_order("2")]).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Confirmed(_))), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn the_other_modes_learn_and_refuse_likewise() {
    for mode in [Mode::Outbox, Mode::Confirmed] {
        let stage = a_stage_of(mode);
        let section = UpstreamSection { confirm_wait_ms: 100, republish_min_ms: 60_000, republish_max_ms: 60_000, ..section() };
        let process = stage.start_on(section, Arc::new(stage.messages.clone()));
        pass(1).await;
        stage.broker.nack_next(1);
        let first = process.upstream.send(an_order("1")).await;
        let kept = matches!(first, Outcome::Committed(_));
        assert_eq!(kept, mode == Mode::Outbox, "{first:?}");
        let published = stage.broker.published().len();
        let second = process.upstream.send(an_order("2")).await;
        assert!(matches!(second, Outcome::Refused(Refusal::Full { .. })), "{mode:?}: {second:?}");
        assert_eq!(stage.broker.published().len(), published, "it is not even published");
        pass(2_000).await;
        assert!(matches!(process.upstream.send(an_order("3")).await, Outcome::Confirmed(_)), "{mode:?}: it has found out");
        assert!(matches!(process.upstream.send(an_order("4")).await, Outcome::Confirmed(_)), "{mode:?}");
        process.kill().await;
    }
}
