use countersign_boot::health::Phase;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{IncarnationState, Messages as _};
use countersign_delivery::{Position, Seq};

use super::*;
use crate::config::UpstreamSection;
use crate::stage::{Mortal, Stage, a_movement, an_order, is_again, is_check, is_closed, pass, section};

fn id_of(outcome: &Outcome) -> MessageId {
    match outcome {
        Outcome::Confirmed(accepted) | Outcome::Committed(accepted) => accepted.id,
        Outcome::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_message_is_in_its_queue_with_a_check_after_it() {
    let stage = Stage::new();
    let process = stage.start().await;
    let outcome = process.upstream.send(an_order("1")).await;
    assert!(matches!(outcome, Outcome::Confirmed(_)), "{outcome:?}");

    let published = stage.broker.published();
    assert_eq!(published.iter().map(is_check).collect::<Vec<_>>(), [false, true]);
    assert!(!is_again(&published[0]));
    let checks = stage.checks();
    assert_eq!(checks.len(), 1);
    assert_eq!((checks[0].message_id, checks[0].attempt.number), (id_of(&outcome), 1));
    assert_eq!(checks[0].required, [countersign_testkit::build::subscription("orders")]);

    pass(1_000).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 2);
}

/// And it is published and checked all the same. In one batch each is answered by its own wish.
#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_the_broker_is_answered_at_the_commit() {
    let stage = Stage::new();
    let process = stage.start().await;
    let quick = |number: &str| NewMessage { answer_when: AnswerWhen::Committed, ..an_order(number) };
    let outcome = process.upstream.send(quick("1")).await;
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    let outcomes = process.upstream.send_batch(vec![quick("2"), an_order("3")]).await.unwrap();
    assert!(matches!(outcomes[..], [Outcome::Committed(_), Outcome::Confirmed(_)]), "{outcomes:?}");
    pass(1_000).await;
    let ids: Vec<_> = [&outcome].into_iter().chain(&outcomes).map(|outcome| id_of(outcome).to_string()).collect();
    assert_eq!(stage.delivered("orders"), ids);
    assert_eq!(stage.checks().len(), 3);
    assert_eq!(stage.heartbeat().await.watermark.0, 4);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_not_confirmed_is_published_again_with_one_check() {
    type Mishap = fn(&Stage);
    let mishaps: [(&str, Mishap); 4] = [
        ("nacked", |stage| stage.broker.nack_next(2)),
        ("returned", |stage| stage.broker.return_next(2)),
        ("lost", |stage| stage.broker.unknown_next(2, false)),
        ("confirm lost", |stage| stage.broker.unknown_next(2, true)),
    ];
    for (name, mishap) in mishaps {
        let stage = Stage::new();
        let process = stage.start().await;
        mishap(&stage);
        let outcome = process.upstream.send(an_order("1")).await;
        assert!(matches!(outcome, Outcome::Confirmed(_)), "{name}: {outcome:?}");
        let published = stage.broker.published();
        assert_eq!(published.iter().map(is_check).collect::<Vec<_>>(), [false, false, false, true], "{name}");
        assert_eq!(published.iter().map(is_again).collect::<Vec<_>>(), [false, true, true, false], "{name}");
        assert_eq!(stage.delivered("orders"), [id_of(&outcome).to_string()], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_not_confirmed_is_published_again_without_its_message() {
    let stage = Stage::new();
    let process = stage.start().await;
    stage.refuse_checks(1);
    let outcome = process.upstream.send(an_order("1")).await;
    assert!(matches!(outcome, Outcome::Confirmed(_)), "{outcome:?}");
    assert_eq!(stage.broker.published().iter().map(is_check).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(stage.checks().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_the_broker_messages_are_committed_and_published_when_it_is_back() {
    let stage = Stage::new();
    let process = stage.start().await;
    stage.broker.go_down();
    let mut ids = Vec::new();
    for number in 0..3 {
        let outcome = process.upstream.send(an_order(&number.to_string())).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        ids.push(id_of(&outcome).to_string());
    }
    pass(30_000).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 1);
    assert!(process.context.health.readiness().ready, "sends are taken, so it is ready");

    stage.broker.come_up();
    pass(1_000).await;
    assert_eq!(stage.delivered("orders"), ids);
    assert!(stage.broker.ready("orders").iter().all(is_again));
    assert_eq!(stage.checks().len(), 3);
    pass(1_000).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 4);
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_for_the_broker_is_refused_and_unready() {
    let stage = Stage::new();
    let section = UpstreamSection { max_unconfirmed: 2, ..section() };
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    stage.broker.go_down();
    let outcomes = process.upstream.send_batch((0..3).map(|n| an_order(&n.to_string())).collect()).await.unwrap();
    assert!(matches!(&outcomes[2], Outcome::Refused(Refusal::Exhausted { retry_ms: 1_000, .. })), "{outcomes:?}");
    pass(15_000).await;
    let readiness = process.context.health.readiness();
    assert_eq!((readiness.ready, readiness.phase), (false, Phase::Running));

    stage.broker.come_up();
    pass(2_000).await;
    assert!(process.context.health.readiness().ready);
    assert!(matches!(process.upstream.send(an_order("3")).await, Outcome::Confirmed(_)));
}

#[tokio::test(start_paused = true)]
async fn the_watermark_never_passes_an_unsettled_message() {
    let stage = Stage::new();
    let process = stage.start().await;
    stage.broker.delete_queue("orders");
    assert!(matches!(process.upstream.send(an_order("stuck")).await, Outcome::Committed(_)));
    for number in 0..5 {
        assert!(matches!(process.upstream.send(a_movement(&number.to_string())).await, Outcome::Confirmed(_)));
    }
    pass(60_000).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 1);
    assert_eq!(stage.delivered("stock").len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_lagging_watermark_leads_to_a_further_incarnation() {
    let stage = Stage::new();
    let section = UpstreamSection { max_outstanding: 3, ..section() };
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    stage.broker.nack_next(1_000);
    let _ = process.upstream.send(an_order("stuck")).await;
    let first = stage.heartbeat().await.incarnation;
    let _ = process.upstream.send_batch((0..5).map(|n| a_movement(&n.to_string())).collect()).await;
    pass(2_000).await;
    assert_eq!(stage.heartbeats().await.len(), 2);
    let _ = process.upstream.send(a_movement("later")).await;
    assert!(!is_closed(&stage, first));
    // The broker recovers in the end, and the old one closes.
    for _ in 0..400 {
        pass(10_000).await;
    }
    assert!(is_closed(&stage, first));
    let second = stage.heartbeat().await;
    assert_eq!(second.watermark.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_known_key_is_answered_as_the_first_time() {
    let stage = Stage::new();
    let process = stage.start().await;
    let keyed = |body: &str| NewMessage { idempotency_key: "order-1".into(), ..an_order(body) };
    let first = process.upstream.send(keyed("1")).await;
    let again = process.upstream.send(keyed("1")).await;
    let Outcome::Confirmed(accepted) = &again else { panic!("{again:?}") };
    assert_eq!((accepted.id, accepted.duplicate), (id_of(&first), true));

    let other = process.upstream.send(keyed("2")).await;
    assert_eq!(other, Outcome::Refused(Refusal::Conflict { key: "order-1".into(), id: id_of(&first) }));
    assert_eq!(stage.broker.ready("orders").len(), 1);
    pass(1_000).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 4, "what was not inserted holds nothing up");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_an_unsettled_message_is_committed_only() {
    let stage = Stage::new();
    let process = stage.start().await;
    stage.broker.go_down();
    let keyed = || NewMessage { idempotency_key: "order-1".into(), ..an_order("1") };
    let _ = process.upstream.send(keyed()).await;
    let again = process.upstream.send(keyed()).await;
    assert!(matches!(&again, Outcome::Committed(accepted) if accepted.duplicate), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fenced_process_goes_on_under_a_new_incarnation() {
    let stage = Stage::new();
    let process = stage.start().await;
    let fenced = stage.heartbeat().await.incarnation;
    stage.messages.fence(fenced).await.unwrap();
    assert!(matches!(process.upstream.send(an_order("1")).await, Outcome::Confirmed(_)));
    let rows = stage.stored().await;
    assert_eq!(rows.len(), 1);
    let second = rows[0].position.incarnation;
    assert_ne!(second, fenced);
    assert!(
        rows[0].message.id.minted_at() > second.minted_at(),
        "whoever closes the first may say that all it minted is settled"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_commit_is_found_out_either_way() {
    for committed in [true, false] {
        let stage = Stage::new();
        let process = stage.start().await;
        stage.messages.lose_commits(1, committed);
        let batch = (0..3).map(|n| an_order(&n.to_string())).collect();
        let outcomes = process.upstream.send_batch(batch).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Confirmed(_))), "{committed}: {outcomes:?}");
        let mut ids: Vec<_> = outcomes.iter().map(|outcome| id_of(outcome).to_string()).collect();
        ids.sort_unstable();
        assert_eq!(stage.delivered("orders"), ids, "{committed}");
        assert_eq!(stage.stored().await.len(), 3, "{committed}");
        pass(1_000).await;
        let watermark = if committed { 4 } else { 7 };
        assert_eq!(stage.heartbeat().await.watermark.0, watermark, "{committed}: entombed seqs hold nothing up");
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_commit_is_in_doubt_the_watermark_waits() {
    let stage = Stage::new();
    // It answers the insert, whose answer is lost, and then only heartbeats.
    let mortal = Mortal::after(1, &stage.messages);
    let process = stage.start_on(section(), Arc::new(mortal.clone()));
    stage.messages.lose_commits(1, true);
    let watching = async {
        pass(3_500).await;
        let heartbeat = stage.heartbeat().await;
        assert!(heartbeat.counter > 3 && heartbeat.watermark.0 == 1, "{heartbeat:?}");
        mortal.revive();
    };
    let (outcome, ()) = tokio::join!(process.upstream.send(an_order("1")), watching);
    assert!(matches!(outcome, Outcome::Confirmed(_)), "{outcome:?}");
    pass(1_000).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 2);
}

#[tokio::test(start_paused = true)]
async fn one_bad_row_of_a_batch_harms_nobody_else() {
    let stage = Stage::new();
    let process = stage.start().await;
    // The third place is taken.
    let incarnation = stage.heartbeat().await.incarnation;
    stage.messages.entomb(Position { incarnation, seq: Seq(3) }).await.unwrap();
    let batch = (0..5).map(|n| an_order(&n.to_string())).collect();
    let outcomes = process.upstream.send_batch(batch).await.unwrap();
    let words: Vec<_> = outcomes.iter().map(Outcome::word).collect();
    assert_eq!(words, ["confirmed", "confirmed", "refused", "confirmed", "confirmed"]);
    assert!(matches!(&outcomes[2], Outcome::Refused(Refusal::Broken(_))), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_database_nothing_is_promised_and_nothing_published() {
    let stage = Stage::new();
    let process = stage.start().await;
    stage.messages.go_down();
    let batch = (0..5).map(|n| an_order(&n.to_string())).collect();
    let outcomes = process.upstream.send_batch(batch).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Refused(Refusal::Unavailable(_)))), "{outcomes:?}");
    assert!(stage.broker.published().is_empty());
    pass(2_000).await;
    assert!(!process.context.health.readiness().ready);
    stage.messages.come_up();
    pass(2_000).await;
    assert!(process.context.health.readiness().ready);
    assert!(matches!(process.upstream.send(an_order("5")).await, Outcome::Confirmed(_)));
    pass(1_000).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 7);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_takes_nothing_back() {
    let stage = Stage::new();
    let process = stage.start().await;
    let mut sending = Box::pin(process.upstream.send(an_order("1")));
    assert!(futures::poll!(sending.as_mut()).is_pending());
    drop(sending);
    pass(1_000).await;
    assert_eq!((stage.delivered("orders").len(), stage.checks().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_closes_only_what_is_settled() {
    let stage = Stage::new();
    let process = stage.start().await;
    let upstream = process.upstream.clone();
    assert!(matches!(upstream.send(an_order("1")).await, Outcome::Confirmed(_)));
    process.stop().await;
    assert_eq!(stage.heartbeats().await, []);
    assert!(matches!(upstream.send(an_order("2")).await, Outcome::Refused(Refusal::Unavailable(_))));

    let process = stage.start().await;
    stage.broker.go_down();
    assert!(matches!(process.upstream.send(an_order("3")).await, Outcome::Committed(_)));
    process.stop().await;
    let left = stage.heartbeat().await;
    assert_eq!((left.state, left.watermark.0), (IncarnationState::Open, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_was_accepted() {
    let stage = Stage::new();
    let process = stage.start().await;
    let upstream = process.upstream.clone();
    let mut sending = Box::pin(upstream.send(an_order("1")));
    assert!(futures::poll!(sending.as_mut()).is_pending());
    process.stop().await;
    assert!(matches!(sending.await, Outcome::Confirmed(_)));
    assert_eq!(stage.heartbeats().await, []);
}

#[tokio::test(start_paused = true)]
async fn checks_share_batches_up_to_max_batch() {
    for (max_batch, expected) in [(256, 1), (2, 3), (1, 5)] {
        let stage = Stage::new();
        let section = UpstreamSection { max_batch, ..section() };
        let process = stage.start_on(section, Arc::new(stage.messages.clone()));
        let batch = (0..5).map(|n| an_order(&n.to_string())).collect();
        let outcomes = process.upstream.send_batch(batch).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Confirmed(_))), "{outcomes:?}");
        assert_eq!(stage.checks().len(), 5);
        assert_eq!(stage.broker.published().iter().filter(|one| is_check(one)).count(), expected, "max_batch {max_batch}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_message_is_found_by_id_and_key() -> Result<(), PortError> {
    let stage = Stage::new();
    let process = stage.start().await;
    let outcome = process.upstream.send(NewMessage { idempotency_key: "k".into(), ..an_order("1") }).await;
    let by_id = process.upstream.find(&crate::lookup::By::Id(id_of(&outcome))).await?.unwrap();
    assert!(by_id.settled);
    let key = countersign_delivery::IdempotencyKey::new("k").unwrap();
    assert_eq!(process.upstream.find(&crate::lookup::By::Key(key)).await?.unwrap(), by_id);
    assert_eq!(process.upstream.find(&crate::lookup::By::Id(countersign_testkit::build::message_id(99))).await?, None);
    Ok(())
}
