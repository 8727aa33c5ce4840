//! `tests/bench/run`: what the services cost, see [`countersign_bench`].

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Parser as _;
use countersign_bench::Options;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let measured = tokio::select! {
        measured = countersign_bench::run(Options::parse()) => measured,
        stopped = stopped() => stopped.and(Err(anyhow!("stopped by a signal"))),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns at SIGINT or SIGTERM: what is under way is dropped then, and with it the servers that it runs on.
async fn stopped() -> anyhow::Result<()> {
    let (mut interrupts, mut terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupts.recv() => {}
        _ = terminations.recv() => {}
    }
    Ok(())
}
