//! Several live processes on one database, some of them slow.

use super::*;
use crate::config::UpstreamSection;
use crate::stage::a_movement;
use crate::stage::slow::{Slow, Waits};

/// Longer than the lease.
const TOO_SLOW: Duration = Duration::from_secs(12);

fn a_slow_one(stage: &Stage, waits: Waits) -> (Process, Slow) {
    let slow = Slow::new(&stage.messages, waits);
    (stage.start_on(section(), Arc::new(slow.clone())), slow)
}

#[tokio::test(start_paused = true)]
async fn two_adopters_of_one_incarnation_are_harmless() {
    let stage = Stage::new();
    let dead = a_dead_one(&stage, 5).await;
    let (_one, slow) = a_slow_one(&stage, Waits { hold_fences: true, ..Waits::default() });
    pass(LONG).await;
    let claimed = stage.messages.heartbeat(dead).unwrap();
    let first = claimed.adopter.expect("it has claimed, and stands before its fence");

    let _other = stage.start().await;
    let second = stage.heartbeats().await.into_iter().map(|row| row.incarnation).find(|id| *id != dead && *id != first);
    // No live adopter is taken for dead, so this one's name is put there by hand: it finds a claim of its own that it has to finish.
    assert!(stage.messages.adopt(&claimed, second.unwrap()).await.unwrap());
    pass(LONG).await;
    assert!(is_closed(&stage, dead), "the second one is through");
    slow.set(Waits::default());
    pass(LONG).await;
    let row = stage.messages.heartbeat(dead).unwrap();
    assert_eq!((row.state, row.watermark), (IncarnationState::Closed, Seq(2)), "the first one's fence opens nothing again");
    assert_eq!(stage.delivered("orders"), expected(5));
    assert_eq!(stage.broker.ready("orders").len(), 8, "by each of the two once");
    assert_eq!(stage.heartbeats().await.len(), 2, "both live on");
}

#[tokio::test(start_paused = true)]
async fn processes_whose_database_is_slower_than_the_lease_leave_each_other_alone() {
    let stage = Stage::new();
    let waits = Waits { beat: TOO_SLOW, heartbeats: TOO_SLOW, hold_fences: false };
    let (_one, _other) = (a_slow_one(&stage, waits), a_slow_one(&stage, waits));
    pass(10 * LONG).await;
    let rows = stage.heartbeats().await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.iter().all(|row| row.adopter.is_none() && row.counter > 5), "{rows:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_beat_in_time_is_adopted_and_goes_on_until_it_can() {
    let stage = Stage::new();
    let (slow_one, slow) = a_slow_one(&stage, Waits { beat: TOO_SLOW, ..Waits::default() });
    let _observer = stage.start().await;
    let mut sent = Vec::new();
    for number in 0..20 {
        pass(6_000).await;
        let outcome = slow_one.upstream.send(an_order(&number.to_string())).await;
        let (Sent::Confirmed(accepted) | Sent::Committed(accepted)) = outcome else { panic!("{outcome:?}") };
        sent.push(accepted.id.to_string());
    }
    slow.set(Waits::default());
    pass(2 * LONG).await;
    let rows = stage.heartbeats().await;
    assert_eq!(rows.len(), 2, "one for each process: {rows:?}");
    assert!(rows.iter().all(|row| row.adopter.is_none()), "{rows:?}");
    pass(10 * LONG).await;
    let ids = |rows: &[Heartbeat]| rows.iter().map(|row| row.incarnation).collect::<Vec<_>>();
    assert_eq!(ids(&stage.heartbeats().await), ids(&rows), "nobody adopts the living");
    sent.sort_unstable();
    assert_eq!(stage.delivered("orders"), sent);
}

#[tokio::test(start_paused = true)]
async fn with_all_incarnations_alive_messages_stay_in_the_newest_until_there_is_room() {
    let stage = Stage::new();
    let section = UpstreamSection { max_outstanding: 3, max_incarnations: 2, ..section() };
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    stage.broker.go_down();
    for round in 0..4 {
        let outcomes = process.upstream.send_batch((0..5).map(|n| a_movement(&format!("{round} {n}"))).collect()).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Sent::Committed(_))), "{outcomes:?}");
        pass(2_000).await;
    }
    let rows = stage.heartbeats().await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    let newest = stage.stored().await.iter().filter(|row| row.position.incarnation == rows[1].incarnation).count();
    assert_eq!(newest, 15, "three rounds of the four");
    stage.broker.come_up();
    pass(10 * LONG).await;
    assert_eq!(stage.delivered("stock").len(), 20);
    assert!(is_closed(&stage, rows[0].incarnation));
}
