//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measure the services beside the broker alone.
#[derive(Clone, Debug, Parser)]
#[command(name = "tests/bench/run")]
pub struct Options {
    /// What to measure; all of it if none is named
    pub scenarios: Vec<Scenario>,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw pictures and tables from the committed figures, tests/bench/figures.json, and measure nothing
    #[arg(long, conflicts_with_all = ["scenarios", "json", "assert_floors"])]
    pub draw: bool,
    /// Fail if a figure is below its floor
    #[arg(long)]
    pub assert_floors: bool,
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Messages of one round
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub messages: u32,
    /// Bytes of a body
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub body_bytes: u32,
}

impl Options {
    /// What is to be measured, in this order.
    #[must_use]
    pub fn chosen(&self) -> Vec<Scenario> {
        if self.scenarios.is_empty() { Scenario::value_variants().to_vec() } else { self.scenarios.clone() }
    }
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Batch sends to a handler in Rust, beside the broker alone
    Stream,
    /// The same work by others: Celery, `FastStream`, amqplib, `BullMQ`
    Peers,
}

impl Scenario {
    /// As it is named on the command line and in the figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Peers => "peers",
        }
    }

    /// In a few words.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Stream => "batch sends to a handler in Rust, verified, beside publish, consume and ack alone",
            Self::Peers => "the same work by Celery, FastStream, amqplib and BullMQ, beside ours and the broker alone",
        }
    }
}
