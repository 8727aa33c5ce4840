//! Whether a message costs more as the tables grow: the same stream beside two installations on one `PostgreSQL`, alternately. Upstream's table
//! and MSG DB's of the one hold what was just sent, those of the other millions of settled rows beside it.
//!
//! Counted are messages whose check has found them signed, from the first call until the last one's, less the delay of its check; processor time
//! of `PostgreSQL` is that of all its processes, autovacuum and checkpoints included, until then. The third figure is taken while retention deletes the old rows,
//! which must not stop the flow.

mod fill;

use std::time::{Duration, Instant};

use countersign_launcher::Which;

use crate::pass::Pass;
use crate::process;
use crate::rig::{Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options};

const NAME: &str = "growth";
/// So many at first, which are not measured.
const WARM: u32 = 500;
/// What is sent must stay few beside the rows of the grown tables: this part of the messages of other scenarios.
const PART: u32 = 2;
/// Everything is kept, until it is said that what [`fill`] has stored is old.
const KEPT: &str = "retention_ms = 0";
const UPSTREAM_WEEK: &str = "retention_ms = 604800000";
/// Callback keeps longer than downstream remembers.
const CALLBACK_WEEK: &str = "retention_ms = 691200000";
/// Rows that retention has deleted.
const DELETED: [(Which, &str); 2] =
    [(Which::Upstream, "countersign_retention_deleted_total"), (Which::Callback, "countersign_msg_db_deleted_total")];

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start().await?;
    let mut shape = Shape::in_process();
    (shape.extras.upstream, shape.extras.callback) = (KEPT.into(), KEPT.into());
    let (mut empty, mut grown) = (Rig::start(&servers, &shape).await?, Rig::start(&servers, &shape).await?);
    let (messages, bytes) = (options.messages / PART, options.body_bytes as usize);
    for rig in [&mut empty, &mut grown] {
        rig.pass(WARM, bytes).await?;
    }
    fill::settled_rows(&grown, options.rows).await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        // Whoever is first is not always the same.
        let (of_empty, of_grown) = if round % 2 == 1 {
            let of_empty = measured(&servers, &mut empty, messages, bytes).await?;
            (of_empty, measured(&servers, &mut grown, messages, bytes).await?)
        } else {
            let of_grown = measured(&servers, &mut grown, messages, bytes).await?;
            (measured(&servers, &mut empty, messages, bytes).await?, of_grown)
        };
        note(book, of_empty, of_grown);
    }
    let sent = WARM + options.rounds * messages;
    empty.finish(sent).await?;
    while_deleting(&servers, &mut grown, (messages, bytes), book).await?;
    grown.finish(sent + 2 * messages).await.map(drop)
}

async fn measured(servers: &Servers, rig: &mut Rig, messages: u32, bytes: usize) -> anyhow::Result<(Pass, Duration)> {
    let server = servers.postgres.pid();
    let before = process::cpu_with_children(server)?;
    let pass = rig.pass(messages, bytes).await?;
    Ok((pass, process::cpu_with_children(server)?.saturating_sub(before)))
}

/// The grown tables' figures as a part of the empty ones'.
fn note(book: &mut Book, (empty, of_empty): (Pass, Duration), (grown, of_grown): (Pass, Duration)) {
    let ratio = grown.verified() / empty.verified();
    book.note(NAME, "empty: verified", "messages/s", empty.verified(), Some(1.0));
    book.note(NAME, "grown: verified", "messages/s", grown.verified(), Some(ratio));
    let (before, after) = (empty.micros(of_empty), grown.micros(of_grown));
    book.note(NAME, "empty: cpu PostgreSQL", "µs/message", before, Some(1.0));
    book.note(NAME, "grown: cpu PostgreSQL", "µs/message", after, Some(after / before));
}

async fn while_deleting(servers: &Servers, rig: &mut Rig, load: (u32, usize), book: &mut Book) -> anyhow::Result<()> {
    let (before, _) = measured(servers, rig, load.0, load.1).await?;
    for (which, kept) in [(Which::Upstream, UPSTREAM_WEEK), (Which::Callback, CALLBACK_WEEK)] {
        rig.rewrite(which, |text| text.replace(KEPT, kept))?;
        rig.restart(which).await?;
    }
    // Each looks for what is old at its start, or a minute later.
    let begun = Instant::now();
    for (which, metric) in DELETED {
        rig.reaches(which, metric, "", 1).await?;
    }
    let (pass, _) = measured(servers, rig, load.0, load.1).await?;
    let ratio = pass.verified() / before.verified();
    book.note(NAME, "grown, deleting: verified", "messages/s", pass.verified(), Some(ratio));
    for (which, metric) in DELETED {
        let per_second = rig.system.metric(which, metric).await? / begun.elapsed().as_secs_f64();
        book.note(NAME, &format!("{}: deleted", which.name()), "rows/s", per_second, None);
    }
    Ok(())
}
