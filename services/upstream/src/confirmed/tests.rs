use std::sync::Arc;

use countersign_delivery::ports::messages::Messages as _;
use countersign_delivery::topology::Mode;

use super::*;
use crate::accept::NewMessage;
use crate::config::UpstreamSection;
use crate::stage::{Stage, a_movement, an_order, is_check, pass, section};

/// Orders are confirmed, movements verified.
fn stage() -> Stage {
    Stage::new().with_route(Mode::Confirmed, false)
}

fn refusal(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        accepted => panic!("{accepted:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirm_is_the_answer_and_nothing_is_stored() {
    let stage = stage();
    let process = stage.start().await;
    let outcome = process.upstream.send(an_order("1")).await;
    let Outcome::Confirmed(accepted) = outcome else { panic!("{outcome:?}") };
    assert_eq!(stage.delivered("orders"), [accepted.id.to_string()]);
    assert!(!stage.broker.published().iter().any(is_check), "there is no check");
    assert!(stage.messages.get(&[accepted.id]).await.unwrap().is_empty());
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_is_not_a_confirm_is_a_refusal_that_says_so() {
    let stage = stage();
    let process = stage.start().await;
    stage.broker.nack_next(1);
    let nacked = refusal(process.upstream.send(an_order("1")).await);
    assert!(matches!(&nacked, Refusal::Exhausted { retry_ms: 1_000, .. }), "{nacked:?}");
    stage.broker.return_next(1);
    let returned = refusal(process.upstream.send(an_order("1")).await);
    assert!(matches!(&returned, Refusal::Returned { reason, .. } if reason == "NO_ROUTE"), "{returned:?}");
    for arrives in [true, false] {
        stage.broker.unknown_next(1, arrives);
        let unknown = refusal(process.upstream.send(an_order("1")).await);
        assert!(unknown.to_string().contains("it may have been published, nothing is stored"), "{unknown}");
    }
    assert_eq!(stage.broker.published().len(), 4, "nothing is published a second time");
    stage.broker.go_down();
    let away = refusal(process.upstream.send(an_order("1")).await);
    assert!(matches!(&away, Refusal::Unconfirmed(words) if words.contains("no connection")), "{away:?}");
    assert!(away.is_transient());
    stage.broker.come_up();
    pass(10_000).await;
    assert_eq!(stage.broker.depth("orders"), 1, "only the one whose confirm was lost");
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_may_mix_modes_and_its_outcomes_stay_in_order() {
    let stage = stage();
    let process = stage.start().await;
    stage.broker.delete_queue("orders");
    let nobody = NewMessage { routing_key: "nobody".into(), ..an_order("0") };
    let batch = vec![a_movement("1"), an_order("2"), nobody, a_movement("3"), an_order("4")];
    let outcomes = process.upstream.send_batch(batch).await.unwrap();
    let words: Vec<_> = outcomes.iter().map(Outcome::word).collect();
    assert_eq!(words, ["confirmed", "refused", "refused", "confirmed", "refused"]);
    assert!(matches!(&outcomes[1], Outcome::Refused(Refusal::Returned { .. })), "{outcomes:?}");
    assert!(matches!(&outcomes[2], Outcome::Refused(Refusal::NoSubscription { .. })), "{outcomes:?}");
    let stored: Vec<_> = stage.stored().await.into_iter().map(|row| row.message.kind).collect();
    assert_eq!(stored, ["stock.moved", "stock.moved"]);
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_callers_own_is_refused_and_an_implied_one_left_out() {
    let stage = stage();
    let process = stage.start().await;
    let keyed = NewMessage { idempotency_key: "A-1".into(), ..an_order("1") };
    let refused = refusal(process.upstream.send(keyed.clone()).await);
    assert!(refused.to_string().contains("mode confirmed"), "{refused}");
    let implied = NewMessage { key_is_implied: true, ..keyed };
    for _ in 0..2 {
        let outcome = process.upstream.send(implied.clone()).await;
        assert!(matches!(&outcome, Outcome::Confirmed(accepted) if !accepted.duplicate), "{outcome:?}");
    }
    assert_eq!(stage.broker.depth("orders"), 2, "nothing remembers the first one");
}

#[tokio::test(start_paused = true)]
async fn a_full_room_is_a_refusal() {
    const MIB: usize = 1024 * 1024;
    let stage = stage();
    let section = UpstreamSection { max_in_flight_bytes: 16 * MIB, max_body_bytes: 10 * MIB, ..section() };
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    pass(1).await;
    let large = || NewMessage { body: vec![1; 10 * MIB].into(), ..an_order("1") };
    let (first, second) = tokio::join!(process.upstream.send(large()), process.upstream.send(large()));
    assert!(matches!(&first, Outcome::Confirmed(_)), "{first:?}");
    let second = refusal(second);
    assert!(second.to_string().contains("max_in_flight_bytes"), "{second}");
    assert!(matches!(process.upstream.send(large()).await, Outcome::Confirmed(_)), "there is room again");
}

#[test]
fn a_wait_of_zero_is_refused_where_a_route_needs_one() {
    let topology = stage().topology;
    let with = |confirm_wait_ms| UpstreamSection { confirm_wait_ms, ..UpstreamSection::default() };
    assert_eq!(problem(&with(1), &topology), None);
    assert_eq!(problem(&with(0), &Stage::new().topology), None);
    let said = problem(&with(0), &topology).unwrap();
    assert!(said.contains("confirm_wait_ms is 0") && said.contains("order.#"), "{said}");
}
