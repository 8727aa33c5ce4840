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
    /// How often outage is measured, which takes minutes a round
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub outages: u32,
    /// From the publish to the check where outage is measured, milliseconds; all other patience is derived from it
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    pub check_delay_ms: u64,
    /// Settled rows that the tables have beside which growth is measured
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000_000))]
    pub rows: u32,
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
    /// What verified, outbox and confirmed cost and write
    Modes,
    /// What the guards of an effect cost
    Guards,
    /// Tables in PostgreSQL and in SQLite
    Databases,
    /// How long it takes to heal after faults
    Outage,
    /// The same stream beside empty tables and beside grown ones
    Growth,
}

impl Scenario {
    /// As it is named on the command line and in the figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Modes => "modes",
            Self::Guards => "guards",
            Self::Databases => "databases",
            Self::Outage => "outage",
            Self::Growth => "growth",
        }
    }

    /// In a few words.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Stream => "batch sends to a handler in Rust, verified, beside publish, consume and ack alone",
            Self::Modes => "what the modes verified, outbox and confirmed cost, and what they write",
            Self::Guards => "what the guards of an effect cost: redis, inbox, tiered, redis+archive",
            Self::Databases => "the stream on PostgreSQL and on SQLite",
            Self::Outage => "a broker killed, a downstream away, messages lost: until everything is signed for again",
            Self::Growth => "the stream beside empty tables and beside grown ones",
        }
    }
}
