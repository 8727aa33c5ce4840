//! `tests/bench/run`: what the services cost, see [`countersign_bench`].

use std::process::ExitCode;

use clap::Parser as _;
use countersign_bench::Options;

#[tokio::main]
async fn main() -> ExitCode {
    match countersign_bench::run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
