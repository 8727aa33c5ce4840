//! Where the services are and how to print: what every verb is given.

use clap::{Args, ValueEnum};

/// Where the help lists these, apart from what belongs to one verb.
const EVERYWHERE: &str = "Everywhere";

/// Where the services are.
#[derive(Args)]
pub struct Target {
    /// gRPC address of upstream.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_UPSTREAM_URL", default_value = "http://127.0.0.1:7101")]
    pub upstream: String,
    /// gRPC address of downstream.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_DOWNSTREAM_URL", default_value = "http://127.0.0.1:7102")]
    pub downstream: String,
    /// gRPC address of callback.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_CALLBACK_URL", default_value = "http://127.0.0.1:7103")]
    pub callback: String,
    /// How long to wait for one answer, milliseconds.
    #[arg(long, global = true, help_heading = EVERYWHERE, default_value_t = 10_000)]
    pub timeout_ms: u64,
    /// How to print.
    #[arg(short, long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// The two forms of every answer.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document.
    Json,
}
