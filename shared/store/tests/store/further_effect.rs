//! On both databases: a message's further effects, and tables from before there were any.

use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims};
use countersign_store::Taking;
use sea_orm::{ConnectionTrait, DbBackend};

use crate::both::on_both;
use crate::handlers::{LIMITS, act, claim, committed, effects, take, with_effects};
use crate::support::Ground;

on_both!(
    each_effect_is_committed_once,
    a_transaction_of_another_content_is_a_conflict_in_every_effect,
    what_was_written_before_there_were_further_effects_is_the_first_ones,
);

fn further(effect_epoch: u32, claim: Claim) -> Claim {
    Claim { key: ClaimKey { effect_epoch, ..claim.key }, epoch: effect_epoch, ..claim }
}

async fn each_effect_is_committed_once(ground: Ground) {
    let inbox = with_effects(&ground).await;
    for epoch in [0, 1, 7] {
        let transaction = take(&inbox, &further(epoch, claim(1, "genuine", "a"))).await;
        act(&transaction).await;
        committed(transaction).await;
    }
    for epoch in [0, 1, 7] {
        let again = inbox.begin(&further(epoch, claim(1, "genuine", "b")), LIMITS).await.unwrap();
        assert!(matches!(again, Taking::Done), "{epoch}: {again:?}");
    }
    assert_eq!(effects(&ground).await, 3);
}

async fn a_transaction_of_another_content_is_a_conflict_in_every_effect(ground: Ground) {
    let inbox = with_effects(&ground).await;
    committed(take(&inbox, &further(1, claim(1, "genuine", "a"))).await).await;
    for epoch in [1, 2] {
        let impostor = inbox.begin(&further(epoch, claim(1, "impostor", "x")), LIMITS).await.unwrap();
        assert!(matches!(impostor, Taking::Conflict), "{epoch}: {impostor:?}");
    }
    let first = inbox.claim(&[claim(1, "impostor", "y")], 0).await.unwrap();
    assert_eq!(first, [Claimed::Conflict], "the first effect's own row is not there, but the id is known");
    committed(take(&inbox, &claim(1, "genuine", "b")).await).await;
}

/// The tables of the first step, with what it wrote.
const BEFORE: [&str; 7] = [
    "DROP TABLE countersign_inbox",
    "DROP TABLE countersign_inbox_start",
    "CREATE TABLE countersign_inbox (message_id {uuid} NOT NULL, done_at bigint NOT NULL, subscription {name} NOT NULL, \
     fingerprint {bytes} NOT NULL, PRIMARY KEY (subscription, message_id))",
    "CREATE TABLE countersign_inbox_start (message_id {uuid} NOT NULL, started_at bigint NOT NULL, epoch bigint NOT NULL, \
     starts bigint NOT NULL, open_starts bigint NOT NULL, unfinished_before bigint NOT NULL, subscription {name} NOT NULL, \
     fingerprint {bytes} NOT NULL, last_token {name}, released_token {name}, PRIMARY KEY (subscription, message_id))",
    "INSERT INTO countersign_inbox VALUES ({id 1}, 5, 'inventory', {fingerprint})",
    "INSERT INTO countersign_inbox_start VALUES ({id 2}, 5, 3, 2, 1, 0, 'inventory', {fingerprint}, 'a', NULL)",
    "DELETE FROM countersign_migrations_inbox WHERE version <> 'm001_inbox'",
];

async fn what_was_written_before_there_were_further_effects_is_the_first_ones(ground: Ground) {
    let session = ground.session().await;
    let postgres = session.get_database_backend() == DbBackend::Postgres;
    let fingerprint = claim(1, "genuine", "a").key.fingerprint.to_hex();
    let bytes = |hex: &str| if postgres { format!("'\\x{hex}'") } else { format!("x'{hex}'") };
    let id = |n| {
        let id = claim(n, "genuine", "a").key.message_id.to_string();
        if postgres { format!("'{id}'") } else { bytes(&id.replace('-', "")) }
    };
    for statement in BEFORE {
        let words = if postgres { ["uuid", "text COLLATE \"C\"", "bytea"] } else { ["BLOB", "TEXT", "BLOB"] };
        let statement = ["{uuid}", "{name}", "{bytes}"]
            .iter()
            .zip(words)
            .fold(statement.to_owned(), |text, (word, meaning)| text.replace(word, meaning));
        let statement =
            statement.replace("{id 1}", &id(1)).replace("{id 2}", &id(2)).replace("{fingerprint}", &bytes(&fingerprint));
        session.execute_unprepared(&statement).await.unwrap();
    }
    ground.database.migrate_inbox().await.unwrap();
    let inbox = ground.database.inbox();
    let known = inbox.claim(&[1, 2].map(|n| Claim { epoch: 3, ..claim(n, "genuine", "b") }), 0).await.unwrap();
    assert_eq!(known, [Claimed::Done, Claimed::Interrupted { starts: 3, crashes: 1 }]);
    assert_eq!(inbox.claim(&[claim(1, "impostor", "x")], 0).await.unwrap(), [Claimed::Conflict]);
    let second = further(1, claim(1, "genuine", "c")).key;
    assert_eq!(inbox.find(std::slice::from_ref(&second)).await.unwrap(), [None]);
    inbox.record(std::slice::from_ref(&second)).await.unwrap();
    assert_eq!(inbox.find(&[claim(1, "genuine", "a").key, second.clone()]).await.unwrap(), vec![Some(second.fingerprint); 2]);
}
