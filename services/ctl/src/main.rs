//! The `countersign` command: one file per verb.

mod cli;
mod client;
mod dead;
mod doctor;
mod exit;
mod get;
mod list;
mod operate;
mod outbox;
mod output;
mod permissions;
mod reconcile;
mod send;
mod send_file;
mod subscriptions;
mod target;
mod topology;
mod why;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    cli::main().await
}
