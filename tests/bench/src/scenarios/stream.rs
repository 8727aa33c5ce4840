//! Batch sends to a handler in Rust: all seven steps, beside the broker alone.

use crate::rig::{Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options, raw};

const NAME: &str = "stream";

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start().await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        one_round(&servers, options, book).await?;
    }
    Ok(())
}

async fn one_round(servers: &Servers, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let (messages, bytes) = (options.messages, options.body_bytes as usize);
    let mut rig = Rig::start(servers, &Shape::in_process()).await?;
    let raw = raw::run(&rig.amqp, messages, bytes, None).await?.per_second();
    book.note(NAME, "raw", "messages/s", raw, Some(1.0));
    let pass = rig.pass(messages, bytes).await?;
    rig.finish(messages).await?;
    book.note(NAME, "accepted", "messages/s", pass.accepted(), Some(pass.accepted() / raw));
    book.note(NAME, "verified", "messages/s", pass.verified(), Some(pass.verified() / raw));
    pass.note_cpu(book, NAME, "");
    Ok(())
}
