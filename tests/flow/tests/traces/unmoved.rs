//! A collector that stops under load, and one that goes: messages flow on, memory is bounded, and services end when asked.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::ensure;
use countersign_flow::spans::Collector;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{OtlpCollector, SUBSCRIPTION, Which, wait_until};

/// Spans that may wait in each service.
const MAX_QUEUE: usize = 64;
/// What a service may take to end on a busy machine: its spans are given up after three seconds, whatever the collector does.
const END: Duration = Duration::from_secs(20);
/// More memory than 64 spans could ever need, and less than all spans of the load would.
const GROWTH_MIB: u64 = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_or_goes_under_load_holds_up_nothing() -> anyhow::Result<()> {
    let (seen, onward) = Collector::start().await?;
    let dir = tempfile::tempdir()?;
    let mut collector = OtlpCollector::start(dir.path(), &onward).await?;
    let setup = Setup { postgres: false, max_batch: 256 };
    let mut flow = Flow::with_traces("traces_unmoved", setup, Some(collector.url())).await?;
    with_a_short_queue(&flow)?;
    flow.start(&Which::ALL).await?;
    flow.all_signed(&flow.send(0, 50).await?).await?;
    let before = flow.usage(Which::Upstream)?.resident_mib;

    collector.pause()?;
    let ids = flow.send(50, 500).await?;
    flow.all_signed(&ids).await?;
    for which in Which::ALL {
        drops(&flow, which).await?;
    }
    let grown = flow.usage(Which::Upstream)?.resident_mib.saturating_sub(before);
    ensure!(grown < GROWTH_MIB, "upstream has grown by {grown} MiB");
    ends_in_time(&mut flow, Which::Downstream).await?;

    collector.resume()?;
    flow.start(&[Which::Downstream]).await?;
    // One by one, for what is sent while the queue is still full is dropped.
    let later = RefCell::new(Vec::new());
    let arrives = async || {
        let number = 550 + u32::try_from(later.borrow().len()).unwrap_or(u32::MAX);
        let Ok(ids) = flow.send(number, 1).await else { return false };
        later.borrow_mut().extend(ids);
        let is_whole = |id: &String| seen.trace_of(id).is_ok_and(|told| told.contains("downstream consumer process"));
        later.borrow().iter().any(is_whole)
    };
    wait_until("spans to arrive again", PATIENCE, arrives).await?;
    let later = later.into_inner();
    flow.all_signed(&later).await?;

    collector.kill9();
    let ids = flow.send(10_000, 200).await?;
    flow.all_signed(&ids).await?;
    for which in [Which::Upstream, Which::Downstream] {
        ends_in_time(&mut flow, which).await?;
    }
    collector.start_again().await?;
    flow.queue_reaches(SUBSCRIPTION, 0).await?;
    ends_in_time(&mut flow, Which::Callback).await
}

fn with_a_short_queue(flow: &Flow) -> anyhow::Result<()> {
    for which in Which::ALL {
        let file = flow.ground.path(&format!("{}.toml", which.name()));
        let text = std::fs::read_to_string(&file)?;
        let bounds = format!("[traces]\nmax_queue = {MAX_QUEUE}\nmax_batch = {MAX_QUEUE}\n");
        std::fs::write(&file, text.replace("[traces]\n", &bounds))?;
    }
    Ok(())
}

async fn drops(flow: &Flow, which: Which) -> anyhow::Result<()> {
    let name = "countersign_spans_dropped_total";
    let dropped = async || flow.system.metric(which, name).await.is_ok_and(|dropped| dropped > 0.0);
    wait_until(&format!("{} to drop spans", which.name()), PATIENCE, dropped).await
}

async fn ends_in_time(flow: &mut Flow, which: Which) -> anyhow::Result<()> {
    let asked = Instant::now();
    flow.system.stop(which).await?;
    ensure!(asked.elapsed() < END, "{} took {:?} to end", which.name(), asked.elapsed());
    Ok(())
}
