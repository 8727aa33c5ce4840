//! The main job on one machine, with real losses and real crashes in the middle: `deploy/local/demo`.
//!
//! Two processes of the same binary: the *front*, which the user starts, holds one end of a pipe; the *player* owns servers and
//! services and ends when the pipe does. **Invariant:** however the front ends, SIGKILL included, nothing outlives it.

#![allow(clippy::disallowed_methods, reason = "not part of the product; it has no launch frame")]

mod drawing;
mod faults;
mod metrics;
mod options;
mod outcome;
mod quiet;
mod schedule;
mod sender;
mod signatures;
mod stage;
mod story;
mod teller;

use std::process::{ExitCode, Stdio};

use anyhow::Context as _;
use clap::Parser as _;
use options::Options;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let ended = if options.kept { play(&options).await } else { front().await };
    ended.unwrap_or_else(|error| {
        eprintln!("the demo could not run to its end: {error:#}");
        ExitCode::from(2)
    })
}

/// Starts the player and waits for it. A signal closes the pipe, upon which the player tidies up.
async fn front() -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe()?;
    let mut player = Command::new(own).args(std::env::args_os().skip(1)).arg("--kept").stdin(Stdio::piped()).spawn()?;
    let pipe = player.stdin.take();
    let status = tokio::select! {
        status = player.wait() => status?,
        _ = stop_request() => {
            drop(pipe);
            player.wait().await?
        }
    };
    let code = status.code().with_context(|| format!("it was ended by a signal: {status}"))?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Tells the story. Whatever ends it, dropping it ends everything that it started.
async fn play(options: &Options) -> anyhow::Result<ExitCode> {
    let told = tokio::select! {
        told = story::tell(options) => told?,
        signal = stop_request() => anyhow::bail!("stopped by {signal}"),
        () = end_of_input() => anyhow::bail!("stopped from outside"),
    };
    Ok(told.print())
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

/// Returns when standard input ends: the front is gone, or wants to go.
async fn end_of_input() {
    let (sender, ended) = tokio::sync::oneshot::channel();
    // A thread and not a task: a blocking read of standard input would keep the runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.send(());
    });
    let _ = ended.await;
}
