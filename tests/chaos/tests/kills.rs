//! Kills at random, for a minute in every run of the tests, and for ten minutes in the long one.

#![allow(clippy::disallowed_methods, reason = "tests have no launch frame; the ban is for the product")]

use std::time::Duration;

use anyhow::Context as _;
use countersign_chaos::{Run, run};

/// The seed of the short run.
const SHORT_SEED: u64 = 1;
/// How long the long run lasts.
const LONG_SECONDS: u64 = 600;

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable} is {text:?}: give a whole number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_kills_lose_nothing_and_double_nothing() -> anyhow::Result<()> {
    run(Run { seed: SHORT_SEED, lasts: Duration::from_mins(1), least_kills: 10 }).await
}

/// `COUNTERSIGN_SEED` repeats a run, `COUNTERSIGN_LONG_SECONDS` shortens it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_kills_lose_nothing_and_double_nothing() -> anyhow::Result<()> {
    if std::env::var_os("COUNTERSIGN_LONG").is_none() {
        println!("skipped: this one takes a quarter of an hour; run it with tests/run --long, or COUNTERSIGN_LONG=1");
        return Ok(());
    }
    let lasts = Duration::from_secs(number("COUNTERSIGN_LONG_SECONDS")?.unwrap_or(LONG_SECONDS));
    let seed = number("COUNTERSIGN_SEED")?.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    run(Run { seed, lasts, least_kills: 0 }).await
}
