use countersign_callback::canary::send;
use countersign_callback::check::Outcome;
use countersign_delivery::Timestamp;
use countersign_delivery::check::Canary;
use countersign_delivery::ports::Clock as _;
use countersign_delivery::ports::broker::{Delivered, Handle, Publication};

use crate::rig::Rig;

/// What callback's consumer is handed.
fn arrived(publications: Vec<Publication>) -> Vec<Delivered> {
    let handles = (1..).map(|tag| Handle { generation: 1, tag });
    let arrived = publications.into_iter().zip(handles).map(|(publication, handle)| {
        let Publication { exchange, routing_key, properties, body } = publication;
        Delivered { handle, exchange, routing_key, redelivered: false, properties, body }
    });
    arrived.collect()
}

/// The check tiers of the test's topology, milliseconds.
fn tiers(rig: &Rig) -> Vec<u64> {
    rig.desk.topology.check_tiers()
}

#[tokio::test]
async fn a_canary_goes_through_every_tier_and_says_when_it_was_due() {
    let rig = Rig::new();
    assert_eq!(send(&rig.desk).await, tiers(&rig).len());
    let sent_at = rig.clock.now();
    for delay_ms in tiers(&rig) {
        let queue = rig.desk.topology.check_tier_queue(delay_ms);
        assert_eq!(rig.broker.depth(&queue), 1, "{queue}");
    }
    let longest = tiers(&rig).into_iter().max().unwrap();
    rig.clock.advance(longest + 5);
    let due = rig.broker.ready(&rig.desk.topology.checks_queue());
    assert_eq!(due.len(), tiers(&rig).len());
    assert!(matches!(rig.look_at(&arrived(due)).await.0, Outcome::Checked));
    for delay_ms in tiers(&rig) {
        assert_eq!(rig.desk.canaries.until(delay_ms), Some(sent_at.plus_millis(delay_ms)));
    }
}

#[tokio::test]
async fn nothing_is_judged_or_set_aside_for_a_canary() {
    let rig = Rig::new();
    send(&rig.desk).await;
    let published = rig.broker.published();
    rig.deliveries.go_down();
    assert!(matches!(rig.look_at(&arrived(published.clone())).await.0, Outcome::Checked));
    assert_eq!(rig.broker.published().len(), published.len());
}

#[tokio::test]
async fn what_is_refused_was_not_sent() {
    let rig = Rig::new();
    rig.broker.nack_next(1);
    assert_eq!(send(&rig.desk).await, tiers(&rig).len() - 1);
}

#[test]
fn an_older_canary_moves_nothing_back_a_clock_ahead_nothing_forward_and_a_strange_tier_nothing_at_all() {
    let rig = Rig::new();
    let (delay_ms, at) = (tiers(&rig)[0], |millis: i64| Timestamp::from_millis(millis));
    let now = at(1_000_000);
    let rows = [(500_000, Some(500_000)), (400_000, Some(500_000)), (2_000_000, Some(1_000_000))];
    for (due_at, until) in rows {
        let canary = Canary { sent_at: at(due_at).minus_millis(delay_ms), delay_ms };
        rig.desk.canaries.note(&rig.desk.topology, now, canary);
        assert_eq!(rig.desk.canaries.until(delay_ms), until.map(at), "{due_at}");
    }
    rig.desk.canaries.note(&rig.desk.topology, now, Canary { sent_at: now, delay_ms: 77 });
    assert_eq!(rig.desk.canaries.until(77), None);
}
