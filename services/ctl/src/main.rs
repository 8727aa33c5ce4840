//! The `countersign` command: one file per verb.

mod cli;
mod client;
mod dead;
mod doctor;
mod exit;
mod get;
mod list;
mod outbox;
mod output;
mod reconcile;
mod resend;
mod send;
mod send_file;
mod subscriptions;
mod target;
mod topology;
mod why;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(cli) => cli::run(cli).await,
        Err(error) => exit::code_of_usage(&error, std::env::args_os()),
    }
}
