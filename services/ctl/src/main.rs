//! The `countersign` command: one file per verb.

mod cli;
mod client;
mod exit;
mod get;
mod list;
mod output;
mod resend;
mod send;
mod send_file;
mod target;
mod topology;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    exit::code_of(cli::run(cli).await)
}
