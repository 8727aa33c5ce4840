//! One message a call, from 64 callers: all seven steps, beside a gRPC server that does nothing, and beside the broker alone.
//!
//! The same callers with the same messages call `bench-echo` and then upstream, each over a connection of its own: first answered when the
//! broker has confirmed message and check, which is the default, then as soon as a message is committed. The clock starts with
//! the first call, all connections being there; `accepted` is until the last answer, `verified` until callback has found the last message
//! signed, less the delay of its check. The ratio of both is to the echo; that of `verified` to the broker alone has a row of its own.

use std::time::Instant;

use countersign_launcher::Which;
use countersign_wire::proto::AnswerWhen;

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
    let rig = Rig::start_on(servers, &Shape::in_process(), Grounds::of(options)).await?;
    let broker = raw::run(&rig.amqp, messages, bytes, None).await?.per_second();
    rig.stop().await?;
    book.note(NAME, "broker alone", "messages/s", broker, None);

    let server = Beside::start("bench-echo", servers.dir.path()).await?;
    let callers = Callers::connect(&server.url).await?;
    let idle = process::cpu(server.process.pid())?;
    let begun = Instant::now();
    callers.send(messages, bytes, AnswerWhen::Unspecified).await?;
    let echo = f64::from(messages) / begun.elapsed().as_secs_f64();
    let cpu = process::cpu(server.process.pid())?.saturating_sub(idle);
    book.note(NAME, "raw", "messages/s", echo, Some(1.0));
    book.note(NAME, "cpu raw", "µs/message", cpu.as_secs_f64() * 1e6 / f64::from(messages), None);
    drop(server);

    for (prefix, answer_when) in [("", AnswerWhen::Confirmed), ("at commit: ", AnswerWhen::Committed)] {
        let mut rig = Rig::start_on(servers, &Shape::in_process(), Grounds::of(options)).await?;
        let callers = Callers::connect(&rig.system.grpc_url(Which::Upstream)).await?;
        let pass = rig.pass_by(messages, callers.send(messages, bytes, answer_when)).await?;
        rig.finish(messages).await?;
        for (metric, rate) in [("accepted", pass.accepted()), ("verified", pass.verified())] {
            book.note(NAME, &format!("{prefix}{metric}"), "messages/s", rate, Some(rate / echo));
        }
        book.note(NAME, &format!("{prefix}verified of broker alone"), "ratio", pass.verified() / broker, None);
        pass.note_cpu(book, NAME, prefix);
    }
    Ok(())
}
