//! One message a call, from 64 callers: all seven steps, beside a gRPC server that does nothing, and beside the broker alone.
//!
//! The same callers with the same messages call `bench-echo` and then upstream, each over a connection of its own. The clock starts with
//! the first call, all connections being there; `accepted` is until the last answer, `verified` until callback has found the last message
//! signed, less the delay of its check. The ratio of both is to the echo; that of `verified` to the broker alone has a row of its own.

use std::time::Instant;

use countersign_launcher::Which;

use crate::beside::Beside;
use crate::load::Callers;
use crate::rig::{Grounds, Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options, process, raw};

const NAME: &str = "unary";
/// Messages of one round at most.
const MOST: u32 = 30_000;

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start().await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        one_round(&servers, options, book).await?;
    }
    Ok(())
}

async fn one_round(servers: &Servers, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let (messages, bytes) = (options.messages.min(MOST), options.body_bytes as usize);
    let mut rig = Rig::start_on(servers, &Shape::in_process(), Grounds::of(options)).await?;
    let broker = raw::run(&rig.amqp, messages, bytes, None).await?.per_second();
    book.note(NAME, "broker alone", "messages/s", broker, None);

    let server = Beside::start("bench-echo", servers.dir.path()).await?;
    let callers = Callers::connect(&server.url).await?;
    let idle = process::cpu(server.process.pid())?;
    let begun = Instant::now();
    callers.send(messages, bytes).await?;
    let echo = f64::from(messages) / begun.elapsed().as_secs_f64();
    let cpu = process::cpu(server.process.pid())?.saturating_sub(idle);
    book.note(NAME, "raw", "messages/s", echo, Some(1.0));
    book.note(NAME, "cpu raw", "µs/message", cpu.as_secs_f64() * 1e6 / f64::from(messages), None);
    drop(server);

    let callers = Callers::connect(&rig.system.grpc_url(Which::Upstream)).await?;
    let pass = rig.pass_by(messages, callers.send(messages, bytes)).await?;
    rig.finish(messages).await?;
    book.note(NAME, "accepted", "messages/s", pass.accepted(), Some(pass.accepted() / echo));
    book.note(NAME, "verified", "messages/s", pass.verified(), Some(pass.verified() / echo));
    book.note(NAME, "verified of broker alone", "ratio", pass.verified() / broker, None);
    pass.note_cpu(book, NAME, "");
    Ok(())
}
