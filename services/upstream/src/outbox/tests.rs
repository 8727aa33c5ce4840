use std::collections::BTreeMap;

use countersign_delivery::MessageId;
use countersign_delivery::outbox::{Entry, Status};
use countersign_delivery::ports::outbox::{Claim, Outbox as _, Released};
use countersign_delivery::topology::Mode;

use super::*;
use crate::accept::NewMessage;
use crate::config::UpstreamSection;
use crate::lookup::By;
use crate::resend::{Order, Outcome as Resent};
use crate::send::{Accepted, Outcome as Sent};
use crate::stage::{Process, Stage, a_movement, an_order, is_again, is_check, is_closed, pass, section};

/// More than any pause after a refusal, for the database's clock.
const A_PAUSE_MS: u64 = 10_000;
/// More than the pause between two looks of the sweeper.
const A_LOOK_MS: u64 = 1_100;
/// More than the lease of a heartbeat, and the time that adopting takes.
const LONG_MS: u64 = 20_000;

/// Orders go by the outbox, movements are verified.
fn stage() -> Stage {
    Stage::new().with_route(Mode::Outbox, false)
}

fn accepted(outcome: Sent) -> Accepted {
    match outcome {
        Sent::Confirmed(accepted) | Sent::Committed(accepted) => accepted,
        refused @ Sent::Refused(_) => panic!("{refused:?}"),
    }
}

async fn entry(process: &Process, id: MessageId) -> Entry {
    process.upstream.find(&By::Id(id)).await.unwrap().unwrap().entry.unwrap()
}

/// Lets the database's clock and the runtime's pass the pauses after refusals.
async fn pauses(stage: &Stage, refusals: u32) {
    for _ in 0..refusals {
        stage.clock.advance(A_PAUSE_MS);
        pass(A_LOOK_MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_row_says_so_and_has_no_check() {
    let stage = stage();
    let process = stage.start().await;
    let outcome = process.upstream.send(an_order("1")).await;
    let Sent::Confirmed(Accepted { id, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(entry(&process, id).await.status, Status::Confirmed, "its caller knows, so whoever asks is told");
    pass(10).await;
    let written = stage.messages.entries(&[id]).await.unwrap();
    assert_eq!((written[0].1.status, written[0].1.tries), (Status::Confirmed, 0));
    assert_eq!(stage.broker.published().iter().filter(|one| is_check(one)).count(), 0);
    assert_eq!(stage.broker.depth("orders"), 1);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_is_done_at_its_commit_and_published_as_soon_as_the_broker_is_back() {
    let stage = stage();
    let process = stage.start().await;
    stage.broker.go_down();
    let outcomes = process.upstream.send_batch((0..3).map(|n| an_order(&n.to_string())).collect()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Sent::Committed(_))), "{outcomes:?}");
    pass(LONG_MS).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 4, "nothing holds the watermark up");
    let ids: Vec<_> = outcomes.into_iter().map(|outcome| accepted(outcome).id).collect();
    assert_eq!((entry(&process, ids[0]).await.status, entry(&process, ids[0]).await.tries), (Status::Sending, 0));

    stage.broker.come_up();
    pass(1_000).await;
    assert!(stage.broker.ready("orders").iter().all(is_again));
    assert_eq!(stage.broker.depth("orders"), 3, "once each, five minutes before a sweep is due");
    for id in ids {
        assert_eq!(entry(&process, id).await.status, Status::Confirmed);
    }
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_until_the_confirm() {
    let stage = stage();
    let process = stage.start_on(UpstreamSection { max_unconfirmed: 2, ..section() }, Arc::new(stage.messages.clone()));
    pass(1).await;
    stage.broker.go_down();
    let outcomes = process.upstream.send_batch((0..3).map(|n| an_order(&n.to_string())).collect()).await.unwrap();
    assert!(matches!(&outcomes[2], Sent::Refused(refusal) if refusal.to_string().contains("max_unconfirmed")), "{outcomes:?}");
    stage.broker.come_up();
    pass(1_000).await;
    assert!(matches!(process.upstream.send(an_order("3")).await, Sent::Confirmed(_)));
}

#[tokio::test(start_paused = true)]
async fn more_refusals_than_tries_leave_a_row_to_a_human_who_releases_it() {
    let stage = stage();
    let section = UpstreamSection { outbox_max_tries: 2, ..section() };
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    pass(1).await;
    stage.broker.nack_next(2);
    let id = accepted(process.upstream.send(an_order("1")).await).id;
    pauses(&stage, 1).await;
    let refused = entry(&process, id).await;
    assert_eq!((refused.status, refused.tries), (Status::Sending, 2));
    stage.broker.return_next(1);
    pauses(&stage, 3).await;
    let failed = entry(&process, id).await;
    assert_eq!((failed.status, failed.tries, failed.reason.as_deref()), (Status::Failed, 3, Some("no queue took it: NO_ROUTE")));
    assert_eq!(stage.broker.published().len(), 3, "nothing more is published until somebody releases it");
    let listed = process.upstream.list_outbox(None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.stored.message.id).collect::<Vec<_>>(), [id]);

    assert_eq!(process.upstream.release(&[id]).await.unwrap(), [Released::Released]);
    pass(A_LOOK_MS).await;
    let released = entry(&process, id).await;
    assert_eq!((released.status, released.tries), (Status::Confirmed, 0));
    assert_eq!(process.upstream.release(&[id]).await.unwrap(), [Released::Otherwise(Status::Confirmed)]);
    assert_eq!(stage.delivered("orders"), [id.to_string()]);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_row_gives_its_place_back_when_it_has_failed() {
    let stage = stage();
    let section = UpstreamSection { outbox_max_tries: 0, max_unconfirmed: 1, ..section() };
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    pass(1).await;
    stage.broker.return_next(1);
    let outcome = process.upstream.send(an_order("1")).await;
    assert!(matches!(outcome, Sent::Committed(_)), "{outcome:?}");
    assert!(matches!(process.upstream.send(an_order("2")).await, Sent::Confirmed(_)), "the first one's place is free");
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_confirm_makes_a_failed_row_confirmed() {
    let stage = stage();
    let process = stage.start_on(UpstreamSection { outbox_max_tries: 0, ..section() }, Arc::new(stage.messages.clone()));
    pass(1).await;
    stage.broker.return_next(1);
    let id = accepted(process.upstream.send(an_order("1")).await).id;
    assert_eq!(entry(&process, id).await.status, Status::Failed);
    let position = process.upstream.find(&By::Id(id)).await.unwrap().unwrap().stored.position;
    let patience = outcomes::patience(&section());
    stage.messages.record(&[(position, Outcome::Confirmed)], patience).await.unwrap();
    let found = process.upstream.find(&By::Id(id)).await.unwrap().unwrap();
    assert_eq!((found.settled, found.entry.map(|entry| entry.status)), (true, Some(Status::Confirmed)));
}

#[tokio::test(start_paused = true)]
async fn silence_is_no_try() {
    for arrives in [true, false] {
        let stage = stage();
        let process = stage.start().await;
        stage.broker.unknown_next(5, arrives);
        let id = accepted(process.upstream.send(an_order("1")).await).id;
        pass(LONG_MS).await;
        let entry = entry(&process, id).await;
        assert_eq!((entry.status, entry.tries), (Status::Confirmed, 0), "{arrives}");
        assert_eq!(stage.broker.published().len(), 6, "{arrives}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_sweeps_what_the_dead_left_once_it_is_due_and_adopts_nothing() {
    let stage = stage();
    let process = stage.start().await;
    stage.broker.go_down();
    let id = accepted(process.upstream.send(an_order("1")).await).id;
    let dead = stage.heartbeat().await.incarnation;
    process.kill().await;
    stage.broker.come_up();
    let successor = stage.start().await;
    pass(LONG_MS).await;
    assert!(is_closed(&stage, dead));
    assert_eq!(stage.broker.depth("orders"), 0, "it is not due yet");
    stage.clock.advance(section().outbox_sweep_after_ms);
    pass(A_LOOK_MS).await;
    assert_eq!(stage.delivered("orders"), [id.to_string()]);
    assert!(stage.broker.ready("orders").iter().all(is_again));
    assert_eq!(entry(&successor, id).await.status, Status::Confirmed);
}

#[tokio::test(start_paused = true)]
async fn sweepers_share_a_backlog_without_publishing_anything_twice() {
    const ROWS: usize = 500;
    let stage = stage();
    let process = stage.start().await;
    stage.broker.go_down();
    let batch = (0..ROWS).map(|n| an_order(&n.to_string())).collect();
    let outcomes = process.upstream.send_batch(batch).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Sent::Committed(_))));
    process.kill().await;
    let (_one, _other) = (stage.start().await, stage.start().await);
    stage.clock.advance(section().outbox_sweep_after_ms);
    pass(LONG_MS).await;
    assert_eq!(stage.broker.depth("orders"), 0, "nothing is claimed without a broker");
    stage.broker.come_up();
    pass(LONG_MS).await;
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for message in stage.broker.ready("orders") {
        *times.entry(message.properties.message_id.unwrap()).or_default() += 1;
    }
    assert_eq!((times.len(), times.values().max()), (ROWS, Some(&1)));
}

#[tokio::test(start_paused = true)]
async fn what_another_sweeper_has_taken_after_a_long_outage_is_left_to_it() {
    let stage = stage();
    let process = stage.start().await;
    stage.broker.go_down();
    let outcomes = process.upstream.send_batch((0..3).map(|n| an_order(&n.to_string())).collect()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Sent::Committed(_))));
    stage.clock.advance(2 * section().outbox_sweep_after_ms);
    // The other one has a broker already, takes two rows, and dies.
    let taken = stage.messages.claim(&section().name, &Claim::Due, 2).await.unwrap();
    stage.broker.come_up();
    pass(LONG_MS).await;
    let left: Vec<_> = outcomes.into_iter().map(|outcome| accepted(outcome).id.to_string()).collect();
    let taken: Vec<_> = taken.into_iter().map(|row| row.message.id.to_string()).collect();
    assert_eq!(stage.delivered("orders"), left.into_iter().filter(|id| !taken.contains(id)).collect::<Vec<_>>());
    stage.clock.advance(section().outbox_sweep_after_ms);
    pass(A_LOOK_MS).await;
    assert_eq!(stage.broker.depth("orders"), 3, "once each");
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn with_a_check_a_row_is_confirmed_when_both_are() {
    let stage = Stage::new().with_route(Mode::Outbox, true);
    let process = stage.start().await;
    stage.refuse_checks(1);
    let outcome = process.upstream.send(an_order("1")).await;
    let Sent::Confirmed(Accepted { id, .. }) = outcome else { panic!("{outcome:?}") };
    let kinds: Vec<_> = stage.broker.published().iter().map(is_check).collect();
    assert_eq!(kinds, [false, true, false, true], "without its check the message is published again, too");
    assert_eq!((entry(&process, id).await.status, entry(&process, id).await.tries), (Status::Confirmed, 0));
    assert_eq!(stage.checks().iter().map(|check| check.message_id).collect::<Vec<_>>(), [id]);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_commit_is_found_out_either_way() {
    for committed in [true, false] {
        let stage = stage();
        let process = stage.start().await;
        stage.messages.lose_commits(1, committed);
        let outcomes = process.upstream.send_batch(vec![an_order("1"), a_movement("2"), an_order("3")]).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Sent::Confirmed(_))), "{committed}: {outcomes:?}");
        assert_eq!((stage.broker.depth("orders"), stage.broker.depth("stock")), (2, 1), "{committed}");
        process.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_key_is_answered_by_how_its_row_stands() {
    let stage = stage();
    let process = stage.start().await;
    let keyed = || NewMessage { idempotency_key: "A-1".into(), ..an_order("1") };
    stage.broker.go_down();
    let first = accepted(process.upstream.send(keyed()).await);
    let again = process.upstream.send(keyed()).await;
    assert!(matches!(&again, Sent::Committed(accepted) if accepted.duplicate && accepted.id == first.id), "{again:?}");
    stage.broker.come_up();
    pass(1_000).await;
    let again = process.upstream.send(keyed()).await;
    assert!(matches!(&again, Sent::Confirmed(accepted) if accepted.duplicate && accepted.id == first.id), "{again:?}");
    assert_eq!(stage.broker.depth("orders"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_row_is_resent_like_any_other() {
    let stage = stage();
    let process = stage.start().await;
    let Accepted { id, fingerprint, .. } = accepted(process.upstream.send(an_order("1")).await);
    let order = Order { id, attempt: Attempt::FIRST.resent(), effect_epoch: 0, subscriptions: Vec::new(), fingerprint };
    assert_eq!(process.upstream.resend(&[order], None).await, [Resent::Resent]);
    assert_eq!((stage.broker.depth("orders"), stage.checks().len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_written_when_the_database_is_back_and_a_stop_waits_for_it() {
    let stage = stage();
    let process = stage.start().await;
    stage.broker.nack_next(1);
    let id = accepted(process.upstream.send(an_order("1")).await).id;
    stage.clock.advance(A_PAUSE_MS);
    pass(A_LOOK_MS).await;
    assert_eq!(entry(&process, id).await.status, Status::Confirmed);
    let Sent::Confirmed(Accepted { id, .. }) = process.upstream.send(an_order("2")).await else { panic!("not confirmed") };
    stage.messages.go_down();
    let (messages, back) = (stage.messages.clone(), async {
        pass(3_000).await;
        stage.messages.come_up();
    });
    let ((), ()) = tokio::join!(process.stop(), back);
    assert_eq!(messages.entries(&[id]).await.unwrap()[0].1.status, Status::Confirmed);
}
