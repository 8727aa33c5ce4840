//! From the start of a process until it says that it is ready, where all servers are up and it has run before: its tables and queues are there.

use std::time::{Duration, Instant};

use anyhow::ensure;
use countersign_launcher::{Extras, Which};

use crate::rig::{Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options};

const NAME: &str = "start";
/// For one to be ready.
const READY: Duration = Duration::from_mins(1);
/// Between two questions: a start takes some hundred milliseconds.
const ASK_EACH: Duration = Duration::from_millis(2);

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start().await?;
    let shape = Shape { downstream: Which::Downstream.binary(), extras: Extras::default() };
    let mut rig = Rig::start(&servers, &shape).await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        for which in [Which::Upstream, Which::Downstream, Which::Callback] {
            rig.system.stop(which).await?;
            let took = start(&mut rig, which).await?;
            book.note(NAME, which.name(), "ms", took.as_secs_f64() * 1e3, None);
        }
    }
    rig.stop().await
}

async fn start(rig: &mut Rig, which: Which) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    rig.system.spawn(which, "")?;
    while !rig.system.look().is_ready(which).await {
        let alive = rig.system.process(which)?.is_alive();
        ensure!(alive && begun.elapsed() < READY, "{} is not ready: {}", which.name(), rig.system.log_of(which)?);
        tokio::time::sleep(ASK_EACH).await;
    }
    Ok(begun.elapsed())
}
