//! Upstreams that hang: nobody else waits for them.

use std::time::Duration;

use countersign_callback::check::Outcome;
use countersign_callback::command_resend;
use countersign_callback::upstreams::Answer;
use countersign_delivery::check::{Check, CheckBatch};
use countersign_delivery::ports::broker::Delivered;
use countersign_delivery::state::Command;
use countersign_testkit::build::{a_check, a_check_of, a_message, a_message_with, upstream};
use countersign_wire::checks;
use tokio::time::Instant;

use crate::rig::{PATIENCE, Reply, Rig, attempt, delivered};

/// What a step may take that waits for nothing.
const AT_ONCE: Duration = Duration::from_millis(10);

fn of(name: &str, all: &[Check]) -> Delivered {
    delivered(checks::encode(&CheckBatch { upstream: upstream(name), checks: all.to_vec() }))
}

/// A rig on which these checks have been looked at once and are lost; and the same checks for their second look.
async fn lost(numbers: std::ops::Range<u64>) -> (Rig, Vec<Check>) {
    let rig = Rig::new();
    let checks: Vec<Check> = numbers.map(|n| a_check_of(&a_message_with(n, "lost"))).collect();
    let (_, armed) = rig.look_at(&[of("shop", &checks)]).await;
    rig.prove_lost().await;
    (rig, armed.into_iter().map(|(_, check)| check).collect())
}

#[tokio::test(start_paused = true)]
async fn who_waits_with_a_hanging_upstream_in_one_round_waits_for_a_moment() {
    let (rig, again) = lost(1..3).await;
    rig.upstreams.hangs(&upstream("dead"));
    let before = Instant::now();
    let (outcome, armed) = rig.look_at(&[of("dead", &again[..1]), of("shop", &again[1..])]).await;
    assert!(matches!(outcome, Outcome::Checked));
    assert!(before.elapsed() <= PATIENCE + AT_ONCE, "{:?}", before.elapsed());
    let ids: Vec<_> = armed.iter().map(|(_, check)| (check.message_id, check.attempt)).collect();
    assert_eq!(ids, [(again[0].message_id, attempt(1))], "the hanging one's is looked at again, as the same try");
    assert_eq!(rig.row(&a_message_with(2, "lost")).unwrap().command, Command::Resent { attempt: attempt(2) });
}

#[tokio::test(start_paused = true)]
async fn what_finds_a_hanging_line_taken_is_armed_again_at_once_and_spends_nothing() {
    let (rig, again) = lost(1..4).await;
    rig.upstreams.hangs(&upstream("dead"));
    for check in &again[..2] {
        rig.look_at(&[of("dead", std::slice::from_ref(check))]).await;
    }
    let before = Instant::now();
    let (outcome, armed) = rig.look_at(&[of("dead", &again[2..])]).await;
    assert!(matches!(outcome, Outcome::Checked));
    assert!(before.elapsed() <= AT_ONCE, "{:?}", before.elapsed());
    let (queue, check) = &armed[0];
    assert_eq!((check, queue.as_str()), (&again[2], "countersign.checks.1000"), "unchanged, through the shortest tier");
    assert_eq!(rig.row(&a_message_with(3, "lost")), None, "no order is written that cannot be given");
    assert_eq!(rig.upstreams.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_is_written_down_all_the_same() {
    let rig = Rig::new();
    rig.upstreams.will(&[Reply::After(PATIENCE * 3, Answer::Resent)]);
    let again = rig.lose(&a_check()).await;
    let before = Instant::now();
    let armed = rig.look(&again).await;
    assert!(before.elapsed() <= PATIENCE + AT_ONCE);
    assert_eq!(armed.len(), 1);
    assert!(rig.desk.tasks.drained(PATIENCE * 3).await);
    assert_eq!(rig.row(&a_message()).unwrap().command, Command::Resent { attempt: attempt(2) });
    assert!(rig.look(&armed[0].1).await.is_empty(), "its check is stale by now");
    assert_eq!(rig.upstreams.calls().len(), 1);
}

#[test]
fn only_what_others_crowd_out_comes_again_soon() {
    let crowded = |word| command_resend::Outcome::Again(word).is_crowded();
    assert!(crowded("busy") && crowded("rate_limited"));
    for word in ["breaker_open", "call_failed", "under_way", "not_confirmed", "out_of_date"] {
        assert!(!crowded(word), "{word}");
    }
}
