//! Idempotency keys that are known.

use super::{Failed, Ground, on_both, place};
use crate::accept::NewMessage;
use crate::refusal::Refusal;
use crate::send::Outcome;
use crate::stage::an_order;

on_both!(a_known_key_is_answered_as_the_first_time_and_poisons_nothing, a_key_is_known_within_its_own_transaction);

fn keyed(key: &str, body: &str) -> NewMessage {
    NewMessage { idempotency_key: key.into(), ..an_order(body) }
}

async fn a_known_key_is_answered_as_the_first_time_and_poisons_nothing(ground: Ground) {
    let process = ground.start();
    let Outcome::Confirmed(first) = process.upstream.send(keyed("k", "1")).await else { panic!("it is accepted") };
    let known = first.id;
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let again = tx.send(keyed("k", "1")).await.unwrap();
            assert_eq!((again.id, again.duplicate), (known, true));
            let conflict = tx.send(keyed("k", "2")).await.unwrap_err();
            assert_eq!(conflict, Refusal::Conflict { key: "k".into(), id: known });
            place(tx, "a").await
        })
    });
    let (id, outcomes) = work.await.unwrap().confirmed().await;
    assert!(matches!(&outcomes[..], [Outcome::Confirmed(accepted)] if accepted.id == id), "{outcomes:?}");
    assert_eq!(ground.delivered(), [known.to_string(), id.to_string()]);
    assert_eq!(ground.business().await, ["a"]);
    ground.watermark_reaches(5).await;
}

async fn a_key_is_known_within_its_own_transaction(ground: Ground) {
    let process = ground.start();
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let first = tx.send(keyed("k", "1")).await.unwrap();
            let again = tx.send(keyed("k", "1")).await.unwrap();
            assert_eq!((again.id, first.duplicate, again.duplicate), (first.id, false, true));
            Ok::<_, Failed>(first.id)
        })
    });
    let (id, outcomes) = work.await.unwrap().confirmed().await;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(ground.delivered(), [id.to_string()]);
}
