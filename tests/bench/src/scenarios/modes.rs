//! What the three modes of a route cost: time, and what is written into the business database and into MSG DB, which are on servers of their own
//! here, because a server has one write-ahead log.
//!
//! The clock starts with the first call. It stops in mode `verified` when callback has found the last message signed, less the delay of its check;
//! in the others, which have no check, when callback has recorded the last receipt. Bytes and rows are the servers' own figures, from before the
//! first call until the services have stopped: heartbeats, checkpoints and whatever else belongs to it are in them. That every message was
//! handled once is told by the handler, that it was stored by its table.

use std::time::Instant;

use anyhow::ensure;
use countersign_launcher::{Postgres, Which};

use crate::readings::{self, Readings};
use crate::rig::{Grounds, Rig, Shape};
use crate::servers::{DURABLE, Servers};
use crate::{Book, Options, load};

const NAME: &str = "modes";
const MODES: [&str; 3] = ["verified", "outbox", "confirmed"];
/// Messages go by their mode's own key.
const KEY: &str = "order.created";
const ROUTES: &str = r#"
[[route]]
exchange = "orders"
routing_key = "order.created.outbox"
mode = "outbox"

[[route]]
exchange = "orders"
routing_key = "order.created.confirmed"
mode = "confirmed"
"#;

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start().await?;
    let msg_db = Postgres::start_with(&servers.dir.path().join("msg"), DURABLE).await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        for mode in MODES {
            one_mode(&servers, &msg_db, mode, options, book).await?;
        }
    }
    Ok(())
}

async fn one_mode(servers: &Servers, msg_db: &Postgres, mode: &str, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let (messages, bytes) = (options.messages, options.body_bytes as usize);
    let mut shape = Shape::in_process();
    shape.extras.topology = ROUTES.into();
    let mut rig = Rig::start_on(servers, &shape, Grounds { msg_db: Some(msg_db), ..Grounds::default() }).await?;
    let sides = [("business", Readings::of(&rig.upstream_database).await?), ("MSG DB", Readings::of(&rig.msg_db).await?)];
    let mut before = Vec::new();
    for (_, side) in &sides {
        before.push((side.wal_bytes().await?, side.rows_written().await?));
    }
    let per_second = if mode == "verified" {
        rig.pass(messages, bytes).await?.verified()
    } else {
        let begun = Instant::now();
        let url = rig.system.grpc_url(Which::Upstream);
        load::batches_by(url, &format!("{KEY}.{mode}"), messages, bytes).await?;
        rig.signed(messages).await?;
        f64::from(messages) / begun.elapsed().as_secs_f64()
    };
    rig.finish(messages).await?;
    let stored = if mode == "confirmed" { 0 } else { i64::from(messages) };
    let (there, signed) = (sides[0].1.messages().await?, sides[1].1.done().await?);
    ensure!(there == stored, "{mode}: {there} messages are stored instead of {stored}");
    ensure!(signed == i64::from(messages), "{mode}: {signed} of {messages} are signed");
    book.note(NAME, mode, "messages/s", per_second, None);
    for ((side, readings), (wal_bytes, rows)) in sides.iter().zip(before) {
        let wal = readings::each(readings.wal_bytes().await? - wal_bytes, messages);
        book.note(NAME, &format!("{mode}: {side} WAL"), "bytes per message", wal, None);
        let written = readings::each(readings.rows_written().await? - rows, messages);
        book.note(NAME, &format!("{mode}: {side} rows"), "written per message", written, None);
    }
    Ok(())
}
