//! The main job on one machine, with a real loss in the middle: `deploy/local/demo`.

#![allow(clippy::disallowed_methods, reason = "not part of the product; it has no launch frame")]

mod outcome;
mod signatures;
mod stage;
mod story;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let options = stage::Options::parse();
    // Whatever ends the story, dropping it ends everything that it started.
    let told = tokio::select! {
        told = story::tell(&options) => told,
        signal = stop_request() => Err(anyhow::anyhow!("stopped by {signal}")),
    };
    match told {
        Ok(outcome) => outcome.print(),
        Err(error) => {
            eprintln!("the demo could not run to its end: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// SIGINT or SIGTERM, by name; never, if signals cannot be watched.
async fn stop_request() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
