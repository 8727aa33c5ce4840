//! Resident memory: of each service at most while a stream of batches goes through it, and of upstream when the broker has stood still for so
//! long that many messages are accepted and none of them is confirmed.
//!
//! The former is the highest that the kernel has seen (`VmHWM`), the start and the books of the handler included, which are in downstream's
//! process: some 20 bytes a message. The latter is what is resident (`VmRSS`) when upstream counts so many messages unconfirmed; it is measured
//! once. Then the broker goes on, and all of them must arrive. MB are millions of bytes.

use anyhow::Context as _;
use countersign_launcher::{Extras, Which};

use crate::rig::{Grounds, Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options, load, process};

const NAME: &str = "memory";
const UNCONFIRMED: &str = "countersign_unconfirmed_messages";

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start().await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        loaded(&servers, options, book).await?;
    }
    println!("{} messages unconfirmed", options.unconfirmed);
    unconfirmed(&servers, options, book).await
}

async fn loaded(servers: &Servers, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let mut rig = Rig::start_on(servers, &Shape::in_process(), Grounds::of(options)).await?;
    rig.pass(options.messages, options.body_bytes as usize).await?;
    for which in [Which::Upstream, Which::Downstream, Which::Callback] {
        let peak = process::memory(rig.system.process(which)?.pid())?.peak;
        book.note(NAME, &format!("peak {}", which.name()), "MB", peak, None);
    }
    rig.finish(options.messages).await.map(drop)
}

async fn unconfirmed(servers: &Servers, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let messages = options.unconfirmed;
    let mut shape = Shape::in_process();
    // Accepted as soon as they are committed, and as many as are sent.
    let upstream = format!("confirm_wait_ms = 0\nmax_unconfirmed = {messages}\nmax_outstanding = {}", u64::from(messages) + 1);
    shape.extras = Extras { upstream, ..shape.extras };
    let rig = Rig::start_on(servers, &shape, Grounds::of(options)).await?;
    servers.rabbitmq.pause()?;
    load::batches(rig.system.grpc_url(Which::Upstream), messages, options.body_bytes as usize).await?;
    rig.reaches(Which::Upstream, UNCONFIRMED, "", messages).await.context("the broker stands still")?;
    let memory = process::memory(rig.system.process(Which::Upstream)?.pid())?;
    book.note(NAME, "upstream with messages unconfirmed", "MB", memory.resident, None);
    servers.rabbitmq.resume()?;
    rig.verified(messages).await?;
    rig.finish(messages).await.map(drop)
}
