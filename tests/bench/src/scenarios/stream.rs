//! Batch sends to a handler in Rust: all seven steps, beside the broker alone.

use std::time::{Duration, Instant};

use crate::rig::{CHECK_DELAY_MS, Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options, load, raw};

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
    rig.cpu()?;
    let begun = Instant::now();
    load::batches(rig.system.grpc_url(countersign_launcher::Which::Upstream), messages, bytes).await?;
    let sent = begun.elapsed();
    rig.verified(messages).await?;
    // Nothing has to be done for the last message until its check comes due.
    let took = begun.elapsed().saturating_sub(Duration::from_millis(CHECK_DELAY_MS));
    let cpu = rig.cpu()?;
    rig.finish(messages).await?;
    let per_second = |took: Duration| f64::from(messages) / took.as_secs_f64();
    book.note(NAME, "accepted", "messages/s", per_second(sent), Some(per_second(sent) / raw));
    book.note(NAME, "verified", "messages/s", per_second(took), Some(per_second(took) / raw));
    for (which, cpu) in ["upstream", "downstream", "callback"].into_iter().zip(cpu) {
        book.note(NAME, &format!("cpu {which}"), "µs/message", cpu.as_secs_f64() * 1e6 / f64::from(messages), None);
    }
    Ok(())
}
