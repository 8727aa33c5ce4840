//! What the route of a message says within a transaction.

use std::time::Duration;

use countersign_delivery::outbox::Status;
use countersign_delivery::topology::{Mode, OnFull};

use super::{Ground, on_both, place};
use crate::lookup::By;
use crate::refusal::Refusal;
use crate::send::Outcome;
use crate::stage::{an_order, pass};
use crate::transaction::tests::ground::PATIENCE;

on_both!(a_row_of_the_outbox_is_one_too, what_stores_nothing_is_refused, what_is_for_a_full_queue_is_refused_and_poisons_nothing);

async fn a_row_of_the_outbox_is_one_too(mut ground: Ground) {
    ground.stage = ground.stage.clone().with_route(Mode::Outbox, false);
    let process = ground.start();
    let work = process.upstream.transaction(|tx| Box::pin(place(tx, "a")));
    let (id, outcomes) = work.await.unwrap().confirmed().await;
    assert!(matches!(&outcomes[..], [Outcome::Confirmed(_)]), "{outcomes:?}");
    assert_eq!((ground.business().await, ground.delivered()), (vec!["a".to_owned()], vec![id.to_string()]));
    let written = async || {
        let found = process.upstream.find(&By::Id(id)).await.unwrap().unwrap();
        assert!(!found.has_check);
        found.entry.is_some_and(|entry| entry.status == Status::Confirmed)
    };
    countersign_launcher::wait_until("the status to be written", PATIENCE, written).await.unwrap();
}

async fn what_stores_nothing_is_refused(mut ground: Ground) {
    ground.stage = ground.stage.clone().with_route(Mode::Confirmed, false);
    let process = ground.start();
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let refused = tx.send(an_order("1")).await.unwrap_err();
            assert!(matches!(&refused, Refusal::Invalid(why) if why.contains("mode confirmed")), "{refused}");
            super::row(tx.connection(), "a").await
        })
    });
    work.await.unwrap();
    assert_eq!((ground.business().await, ground.delivered()), (vec!["a".to_owned()], Vec::new()));
}

async fn what_is_for_a_full_queue_is_refused_and_poisons_nothing(mut ground: Ground) {
    ground.stage = ground.stage.clone().with_route(Mode::Verified, false);
    ground.stage.topology.routes[0].on_full = OnFull::Reject;
    let section =
        crate::config::UpstreamSection { republish_min_ms: 60_000, republish_max_ms: 60_000, ..crate::stage::section() };
    let process = ground.start_with(crate::config::UpstreamSection { heartbeat_ms: 50, confirm_wait_ms: 0, ..section });
    ground.stage.broker.nack_next(1);
    let first = process.upstream.send(crate::accept::NewMessage { idempotency_key: "k".into(), ..an_order("1") }).await;
    let Outcome::Committed(first) = first else { panic!("{first:?}") };
    let nacked = async || !ground.stage.broker.published().is_empty();
    countersign_launcher::wait_until("the nack", Duration::from_secs(20), nacked).await.unwrap();
    pass(50).await;
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let again = tx.send(crate::accept::NewMessage { idempotency_key: "k".into(), ..an_order("1") }).await.unwrap();
            assert!(again.duplicate, "it was accepted before, so it is not refused now");
            let refused = tx.send(an_order("2")).await.unwrap_err();
            assert!(matches!(refused, Refusal::Full { .. }), "{refused}");
            super::row(tx.connection(), "a").await.map(|()| again.id)
        })
    });
    assert_eq!(work.await.unwrap().value, first.id);
    assert_eq!((ground.business().await, ground.stored().await.len()), (vec!["a".to_owned()], 1));
}
