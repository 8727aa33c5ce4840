//! Until when everything is settled, while a transaction is open.

use countersign_delivery::Timestamp;
use countersign_delivery::ports::messages::{Heartbeat, Messages as _};
use countersign_launcher::wait_until;
use countersign_testkit::build::upstream;
use tokio::sync::oneshot;

use super::ground::PATIENCE;
use super::{Failed, Ground, on_both, place};

on_both!(an_open_transaction_holds_the_time_back);

async fn heartbeat(ground: &Ground) -> Heartbeat {
    let mut rows = ground.database.messages().heartbeats(&upstream("shop")).await.unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

async fn beats_until(ground: &Ground, what: &str, is_so: impl Fn(&Heartbeat) -> bool) {
    wait_until(what, PATIENCE, async || is_so(&heartbeat(ground).await)).await.unwrap();
}

async fn an_open_transaction_holds_the_time_back(ground: Ground) {
    // What is settled is told up to the database's clock, which is a real one.
    ground.stage.clock.set(Timestamp::from_millis(1_700_000_000_000));
    let process = ground.start();
    ground.stage.clock.advance(1);
    let (sent, ids) = oneshot::channel();
    let (end, ended) = oneshot::channel::<()>();
    let transaction = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let ids = [place(tx, "first").await?, place(tx, "last").await?];
            sent.send(ids).map_err(|_| "nobody looks")?;
            ended.await.map_err(|error| error.to_string())?;
            Ok::<_, Failed>(())
        })
    });
    let beside = async {
        let [first, last] = ids.await.unwrap();
        let counter = heartbeat(&ground).await.counter;
        // On SQLite nobody beats beside the transaction: it has the only connection that writes.
        let beats = if ground.url.starts_with("sqlite") { 0 } else { 3 };
        beats_until(&ground, "heartbeats beside the transaction", |row| row.counter >= counter + beats).await;
        let until = heartbeat(&ground).await.settled_until;
        assert!(until <= first.minted_at(), "settled until {until:?}, though {first} is not even committed");
        ground.stage.clock.advance(1);
        end.send(()).unwrap();
        last
    };
    let (committed, last) = tokio::join!(transaction, beside);
    assert_eq!(committed.unwrap().messages().count(), 2);
    beats_until(&ground, "what is confirmed to be settled", |row| row.settled_until > last.minted_at()).await;
}
