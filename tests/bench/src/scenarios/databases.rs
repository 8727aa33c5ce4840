//! The same stream with upstream's tables and MSG DB on `PostgreSQL`, and in two files of `SQLite`, beside the broker alone.
//!
//! Counted are messages whose check has found them signed, from the first call until the last one's, less the delay of its check.

use crate::rig::{Grounds, Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options};

const NAME: &str = "databases";

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let (messages, bytes) = (options.messages, options.body_bytes as usize);
    let servers = Servers::start().await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        let raw = servers.raw(messages, bytes).await?;
        book.note(NAME, "raw", "messages/s", raw, Some(1.0));
        for (database, sqlite) in [("PostgreSQL", false), ("SQLite", true)] {
            let mut rig = Rig::start_on(&servers, &Shape::in_process(), Grounds { sqlite, ..Grounds::default() }).await?;
            let pass = rig.pass(messages, bytes).await?;
            rig.finish(messages).await?;
            book.note(NAME, &format!("{database}: verified"), "messages/s", pass.verified(), Some(pass.verified() / raw));
            pass.note_cpu(book, NAME, &format!("{database}: "));
        }
    }
    Ok(())
}
