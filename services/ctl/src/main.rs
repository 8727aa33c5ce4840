//! The `countersign` command: one file per verb.

mod cli;
mod client;
mod completions;
mod doctor;
mod exit;
mod get;
mod list;
mod outbox;
mod output;
mod resend;
mod send;
mod send_file;
mod target;
mod topology;
mod why;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::code_of_usage(&error, std::env::args_os()),
    };
    let format = cli.target.output;
    exit::code_of(cli::run(cli).await, format)
}
