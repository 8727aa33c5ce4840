//! Measuring a reading loop of reconciliation and what is written beside it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign_delivery::reconcile::pause_after;

/// How often each way of reading is measured, in turn.
const RUNS: usize = 5;
/// Writes that are timed without anything beside them, in each run.
const ALONE: u64 = 200;

/// Something that takes a while.
pub type Taking<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How the loop goes on after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Unpaced,
    /// As the services do.
    Paced,
}

impl Pace {
    /// Waits as long as is due after a look that began then.
    pub async fn pause(self, began: Instant) {
        if self == Self::Paced {
            tokio::time::sleep(pause_after(began.elapsed())).await;
        }
    }
}

/// What one run came to.
struct Run {
    rows_per_second: f64,
    alone_ms: f64,
    beside_ms: f64,
    beside_slow_ms: f64,
}

/// Reads with `read`, which answers how many rows it has read, while `write` writes one thing after the other; prints one figure a line.
pub async fn measure(what: &str, rows: u64, read: impl Fn(Pace) -> Taking<u64>, write: impl Fn() -> Taking<()>) {
    for pace in [Pace::Unpaced, Pace::Paced] {
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(run(rows, read(pace), &write).await);
        }
        let name = format!("{what}, {pace:?}").to_lowercase();
        print(&name, "rows read a second", runs.iter().map(|run| run.rows_per_second));
        print(&name, "a write alone, median, ms", runs.iter().map(|run| run.alone_ms));
        print(&name, "a write beside it, median, ms", runs.iter().map(|run| run.beside_ms));
        print(&name, "a write beside it, 99 of 100, ms", runs.iter().map(|run| run.beside_slow_ms));
    }
}

async fn run(rows: u64, read: Taking<u64>, write: &impl Fn() -> Taking<()>) -> Run {
    let mut alone = Vec::new();
    for _ in 0..ALONE {
        alone.push(timed(write()).await);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let stop = stop.clone();
        async move {
            let began = Instant::now();
            let read = read.await;
            stop.store(true, Ordering::Release);
            (read, began.elapsed())
        }
    });
    let mut beside = Vec::new();
    while !stop.load(Ordering::Acquire) {
        beside.push(timed(write()).await);
    }
    let (read, took) = reading.await.unwrap();
    assert!(read >= rows, "{read} rows of {rows}");
    Run {
        rows_per_second: figure(read) / took.as_secs_f64(),
        alone_ms: at_ms(alone, 50),
        beside_ms: at_ms(beside.clone(), 50),
        beside_slow_ms: at_ms(beside, 99),
    }
}

async fn timed(write: Taking<()>) -> Duration {
    let began = Instant::now();
    write.await;
    began.elapsed()
}

/// Median and range.
fn print(name: &str, figure: &str, values: impl Iterator<Item = f64>) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    println!("{name}: {figure}: {:.2} ({:.2} to {:.2})", values[values.len() / 2], values[0], values[values.len() - 1]);
}

fn at_ms(mut times: Vec<Duration>, percent: usize) -> f64 {
    times.sort_unstable();
    times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn figure(count: u64) -> f64 {
    count as f64
}
