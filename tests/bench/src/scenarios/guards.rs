//! What the guards of an effect cost, each with a handler in the program that does nothing but count: for `inbox` and `tiered` within the
//! guard's transaction.
//!
//! Counted are messages whose check has found them signed, from the first call until the last one's, less the delay of its check. Round trips
//! to Redis are downstream's own count; statements are what `PostgreSQL` was given for downstream's database, BEGIN and COMMIT among them.

use anyhow::ensure;
use countersign_delivery::topology::Guard;
use countersign_launcher::{PostgresOptions, Which};

use crate::readings::{self, Readings};
use crate::rig::{Grounds, Rig, Shape};
use crate::servers::{DURABLE, Servers};
use crate::{Book, Options};

const NAME: &str = "guards";
/// A transaction a message is slow: this part of the messages of other scenarios is enough.
const PART: u32 = 4;

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start_with(PostgresOptions { statements: true, ..DURABLE }).await?;
    let counting = Readings::of(&servers.postgres.url()).await?;
    counting.run("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        let raw = servers.raw(options.messages / PART, options.body_bytes as usize).await?;
        book.note(NAME, "raw", "messages/s", raw, Some(1.0));
        for guard in Guard::ALL {
            one_guard(&servers, &counting, guard, raw, options, book).await?;
        }
    }
    Ok(())
}

async fn one_guard(
    servers: &Servers,
    counting: &Readings,
    guard: Guard,
    raw: f64,
    options: &Options,
    book: &mut Book,
) -> anyhow::Result<()> {
    let messages = options.messages / PART;
    let mut rig = Rig::start_on(servers, &Shape::in_process(), Grounds { guard, ..Grounds::default() }).await?;
    let round_trips = async |rig: &Rig| rig.system.metric(Which::Downstream, "countersign_redis_round_trips_total").await;
    let before = (round_trips(&rig).await?, counting.statements(&rig.downstream_database()).await?);
    let pass = rig.pass(messages, options.body_bytes as usize).await?;
    let to_redis = (round_trips(&rig).await? - before.0) / f64::from(messages);
    let statements = readings::each(counting.statements(&rig.downstream_database()).await? - before.1, messages);
    rig.finish(messages).await?;
    ensure!(guard.uses_redis() == (to_redis > 0.0), "{}: {to_redis} round trips to Redis a message", guard.as_str());
    ensure!(guard.uses_database() == (statements > 0.0), "{}: {statements} statements a message", guard.as_str());
    let guard = guard.as_str();
    book.note(NAME, &format!("{guard}: verified"), "messages/s", pass.verified(), Some(pass.verified() / raw));
    pass.note_cpu(book, NAME, &format!("{guard}: "));
    // What is never used has no figure.
    for (what, each) in [("Redis round trips", to_redis), ("statements", statements)].into_iter().filter(|(_, each)| *each > 0.0)
    {
        book.note(NAME, &format!("{guard}: {what}"), "per message", each, None);
    }
    Ok(())
}
