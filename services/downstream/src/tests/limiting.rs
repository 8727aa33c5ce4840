//! A bounded number of starts in a second.

use std::time::Duration;

use countersign_delivery::probe::Lane as ProbeLane;
use countersign_delivery::receipt::{Outcome, ProbeAnswer};
use countersign_testkit::build::{a_message_with, a_topology, subscription};
use countersign_wire::probes;
use countersign_wire::publication::Publish;
use tokio::time::Instant;

use super::world::{Given, LEASE_MS, QUEUE, World};

#[tokio::test(start_paused = true)]
async fn so_many_start_in_a_second_and_the_rest_is_held_reported_and_done() {
    let world = World::given(Given { rate_per_second: Some(2), ..Given::default() });
    for n in 1..=41 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    let lane = ProbeLane { subscription: subscription(QUEUE), retry_delay_ms: None };
    world.put(probes::publication(&lane, 7, &a_topology()).unwrap()).await;
    let started = Instant::now();
    world.start();
    world.until("the probe is signed", |world| world.signed().probes == [ProbeAnswer { lane: lane.clone(), number: 7 }]).await;
    assert!(started.elapsed() < Duration::from_millis(500), "a probe does not wait for a turn");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.calls(), 11);
    assert_eq!(world.lane.reception.held.count().waiting, 30);
    world.settled().await;
    assert_eq!((world.calls(), world.words().len()), (41, 41));
    let seconds = started.elapsed().as_secs();
    assert!((20..=21).contains(&seconds), "41 starts took {seconds} s");
    let reported =
        world.receipts().iter().filter(|receipt| receipt.outcome == Outcome::Processing { lease_ms: LEASE_MS }).count();
    assert!(reported > 10, "what waited for longer than 10 s was reported: {reported}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_again_counts_too() {
    let world = World::given(Given { rate_per_second: Some(2), ..Given::default() });
    world.start();
    let started = Instant::now();
    for _ in 0..21 {
        world.arrives(&a_message_with(1, "{}"), Publish::FIRST).await;
    }
    world.settled().await;
    assert_eq!(world.calls(), 1);
    let seconds = started.elapsed().as_secs();
    assert!((10..=11).contains(&seconds), "21 starts took {seconds} s");
}
