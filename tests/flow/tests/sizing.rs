//! What a message costs in stored bytes, in each of the servers: broker, upstream's database, Redis and MSG DB. A measurement whose figures
//! a reader sizes disks by. Each round has servers of its own, which nobody else writes to.
//!
//! ```sh
//! cargo build --workspace --bins --examples --features countersign-boot/failpoints
//! COUNTERSIGN_LONG=1 target/debug/with-servers rabbitmq redis postgres -- cargo nextest run --workspace --test flow \
//!   --features countersign-boot/failpoints -E 'test(long_bytes_per_message)'
//! ```

mod rig;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::order;
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{NewMessage, SendMessagesRequest};
use sea_orm::DatabaseConnection;

use rig::{Queue, Rig, WAL, value};

/// Unless `COUNTERSIGN_MESSAGES` says otherwise.
const MESSAGES: u32 = 50_000;
/// Each on fresh servers.
const ROUNDS: usize = 3;
/// Messages in one call.
const CALL: u32 = 500;
/// Of each message: a small order and a text that cannot be compressed.
const BODY_BYTES: usize = 1_024;
/// For anything that all of a round's messages have to do.
const ALL: Duration = Duration::from_mins(5);

/// What is measured, in the order in which [`round`] gives it.
const WHAT: [&str; 13] = [
    "upstream's database: tables and indexes",
    "upstream's database: write-ahead log written",
    "broker, all waiting: directory as it stands",
    "broker, all waiting: directory, its log rolled over",
    "broker, all waiting: bytes in the work queue",
    "broker, all waiting: bytes in the check tier",
    "broker, all waiting: memory of the work queue",
    "broker, all waiting: memory of the check tier",
    "Redis, all processed: used_memory",
    "MSG DB, all signed for: tables and indexes",
    "MSG DB, all signed for: write-ahead log written",
    "broker, all acked: directory as it stands",
    "broker, all acked: directory, its log rolled over",
];

/// An order of [`BODY_BYTES`].
fn padded(number: u32) -> NewMessage {
    let start = format!("{{\"order\":{number},\"note\":\"");
    let note: String = (start.len()..BODY_BYTES - 2).map(|_| fastrand::alphanumeric()).collect();
    NewMessage { body: format!("{start}{note}\"}}").into(), ..order(number) }
}

/// Sends so many and waits until the broker has confirmed each, and its check.
async fn send(rig: &Rig, messages: u32) -> anyhow::Result<()> {
    let mut upstream = rig.flow.upstream().await?;
    for first in (0..messages).step_by(usize::try_from(CALL)?) {
        let messages = (first..messages.min(first + CALL)).map(padded).collect();
        let results = upstream.send_messages(SendMessagesRequest { messages }).await?.into_inner().results;
        ensure!(results.iter().all(|result| matches!(result.result, Some(Sent::Accepted(_)))), "not all were accepted");
    }
    let settled = async || {
        let count = rig.flow.system.metric(Which::Upstream, "countersign_settled_total").await;
        count.is_ok_and(|count| count >= f64::from(messages))
    };
    wait_until("every message and its check to be confirmed", ALL, settled).await
}

/// The work queue and the check tier, once the broker has counted what lies in them.
async fn waiting(rig: &Rig, messages: u32) -> anyhow::Result<[Queue; 2]> {
    let tier = format!("countersign.checks.{}", rig::CHECK_DELAY_MS);
    let (mut found, mut last) = (None, None);
    let counted = wait_until("the broker to have counted its queues", ALL, async || {
        let asked = tokio::try_join!(rig.broker.queue_depth("/", &tier), rig.queues());
        let Ok((depth, queues)) = &asked else {
            last = Some(format!("{asked:?}"));
            return false;
        };
        last = Some(format!("{queues:?}"));
        let (Some(work), Some(checks)) = (queues.get(SUBSCRIPTION), queues.get(&tier)) else { return false };
        found = Some([*work, *checks]);
        work.messages == i64::from(messages) && checks.messages == i64::from(*depth) && *depth > 0
    });
    counted.await.with_context(|| format!("the broker says {}", last.unwrap_or_default()))?;
    found.context("no queues")
}

/// Waits until MSG DB has each message as done, and nothing of the work queue is left, acked or not.
async fn signed(rig: &Rig, messages: u32) -> anyhow::Result<()> {
    const DONE: &str = "SELECT COUNT(*) AS value FROM countersign_delivery WHERE state = 'done'";
    let database = rig.flow.msg_database().await?;
    let all = async || value(&database, DONE).await.is_ok_and(|done| done == i64::from(messages));
    wait_until("every message to be signed for", ALL, all).await?;
    database.close().await?;
    let empty = async || rig.queues().await.is_ok_and(|queues| queues.get(SUBSCRIPTION).is_some_and(|work| work.messages == 0));
    wait_until("the work queue to be empty", ALL, empty).await
}

/// All of it once, on fresh servers: bytes in all, one for each of [`WHAT`].
async fn round(messages: u32) -> anyhow::Result<Vec<i64>> {
    let mut rig = Rig::new().await?;
    rig.flow.start(&[Which::Upstream]).await?;
    let broker = rig.broker_bytes(true).await?;
    let database = rig.flow.upstream_database().await?;
    let before = written(&database).await?;
    send(&rig, messages).await?;
    let upstream = grown(before, written(&database).await?);
    database.close().await?;
    let [work, checks] = waiting(&rig, messages).await?;
    let full = [rig.broker_bytes(false).await? - broker, rig.broker_bytes(true).await? - broker];

    rig.flow.start(&[Which::Callback]).await?;
    let database = rig.flow.msg_database().await?;
    let before = written(&database).await?;
    let redis = rig.redis_bytes().await?;
    rig.flow.start(&[Which::Downstream]).await?;
    signed(&rig, messages).await?;
    let callback = grown(before, written(&database).await?);
    database.close().await?;
    let redis = rig.redis_bytes().await? - redis;
    let acked = [rig.broker_bytes(false).await? - broker, rig.broker_bytes(true).await? - broker];
    rig.finish().await?;
    let queues = [work.bytes, checks.bytes, work.memory, checks.memory];
    Ok([upstream.as_slice(), &full, &queues, &[redis], &callback, &acked].concat())
}

/// Bytes of this database's tables and indexes, and of its server's write-ahead log.
async fn written(database: &DatabaseConnection) -> anyhow::Result<[i64; 2]> {
    Ok([rig::tables(database).await?, value(database, WAL).await?])
}

fn grown(before: [i64; 2], after: [i64; 2]) -> [i64; 2] {
    [after[0] - before[0], after[1] - before[1]]
}

/// One line a figure: what | bytes a message | MiB a million, median and range over the rounds.
fn table(rounds: &[Vec<i64>], messages: u32) -> String {
    let line = |what: &str, bytes: &str, mib: &str| format!("| {what:<51} | {bytes:>22} | {mib:>22} |\n");
    let figure = |(index, what): (usize, &&str)| {
        #[allow(clippy::cast_precision_loss, reason = "figures for people")]
        let mut each: Vec<f64> = rounds.iter().map(|round| round[index] as f64 / f64::from(messages)).collect();
        each.sort_by(f64::total_cmp);
        let shown = |factor: f64| {
            let [least, median, most] = [0, each.len() / 2, each.len() - 1].map(|place| each[place] * factor);
            format!("{median:.0} ({least:.0}–{most:.0})")
        };
        line(what, &shown(1.0), &shown(1e6 / f64::from(1 << 20)))
    };
    let head = line("What", "Bytes a message", "MiB a million messages");
    head + &WHAT.iter().enumerate().map(figure).collect::<String>()
}

fn messages() -> anyhow::Result<u32> {
    let Ok(text) = std::env::var("COUNTERSIGN_MESSAGES") else { return Ok(MESSAGES) };
    let messages = text.parse().ok().filter(|messages| *messages > 0);
    messages.with_context(|| format!("COUNTERSIGN_MESSAGES is {text:?}: give a whole number above 0"))
}

/// `COUNTERSIGN_MESSAGES` makes it smaller or larger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_bytes_per_message() -> anyhow::Result<()> {
    if std::env::var_os("COUNTERSIGN_LONG").is_none() {
        println!("skipped: this one takes minutes; run it with tests/run --long, or COUNTERSIGN_LONG=1");
        return Ok(());
    }
    let messages = messages()?;
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        rounds.push(round(messages).await?);
        println!("round {number} of {ROUNDS}, bytes in all: {:?}", rounds.last());
    }
    println!(
        "{messages} messages with bodies of {BODY_BYTES} bytes, {ROUNDS} rounds: median (least–most)\n{}",
        table(&rounds, messages)
    );
    let bodies = i64::from(messages) * i64::try_from(BODY_BYTES)?;
    for round in &rounds {
        let [stored, _, _, waiting, queued, ..] = round[..] else { anyhow::bail!("too few figures: {round:?}") };
        ensure!(stored.min(waiting).min(queued) >= bodies, "less is kept than the bodies' {bodies} bytes: {round:?}");
        ensure!(round.iter().all(|bytes| *bytes > 0), "something costs nothing: {round:?}");
    }
    Ok(())
}
