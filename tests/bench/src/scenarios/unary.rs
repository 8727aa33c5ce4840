//! One message a call, from 64 callers: all seven steps, beside a gRPC server that does nothing, and beside the broker alone.
//!
//! The same callers with the same messages call `bench-echo` and then upstream, each over a connection of its own. The clock starts with
//! the first call, all connections being there; `accepted` is until the last answer, `verified` until callback has found the last message
//! signed, less the delay of its check. The ratio of both is to the echo; that of `verified` to the broker alone has a row of its own.

use std::time::{Duration, Instant};

use countersign_launcher::Which;

use crate::beside::Beside;
use crate::load::Callers;
use crate::rig::{CHECK_DELAY_MS, Rig, Shape};
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
    let per_second = |took: Duration| f64::from(messages) / took.as_secs_f64();
    let per_message = |cpu: Duration| cpu.as_secs_f64() * 1e6 / f64::from(messages);
    let mut rig = Rig::start(servers, &Shape::in_process()).await?;
    let broker = raw::run(&rig.amqp, messages, bytes, None).await?.per_second();
    book.note(NAME, "broker alone", "messages/s", broker, None);

    let server = Beside::start("bench-echo", servers.dir.path()).await?;
    let callers = Callers::connect(&server.url).await?;
    let idle = process::cpu(server.process.pid())?;
    let begun = Instant::now();
    callers.send(messages, bytes).await?;
    let echo = per_second(begun.elapsed());
    book.note(NAME, "raw", "messages/s", echo, Some(1.0));
    book.note(NAME, "cpu raw", "µs/message", per_message(process::cpu(server.process.pid())? - idle), None);
    drop(server);

    let callers = Callers::connect(&rig.system.grpc_url(Which::Upstream)).await?;
    rig.cpu()?;
    let begun = Instant::now();
    callers.send(messages, bytes).await?;
    let accepted = per_second(begun.elapsed());
    rig.verified(messages).await?;
    // Nothing has to be done for the last message until its check comes due.
    let verified = per_second(begun.elapsed().saturating_sub(Duration::from_millis(CHECK_DELAY_MS)));
    let cpu = rig.cpu()?;
    rig.finish(messages).await?;
    book.note(NAME, "accepted", "messages/s", accepted, Some(accepted / echo));
    book.note(NAME, "verified", "messages/s", verified, Some(verified / echo));
    book.note(NAME, "verified of broker alone", "ratio", verified / broker, None);
    for (which, cpu) in ["upstream", "downstream", "callback"].into_iter().zip(cpu) {
        book.note(NAME, &format!("cpu {which}"), "µs/message", per_message(cpu), None);
    }
    Ok(())
}
