//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::rig::CHECK_DELAY_MS;

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
    /// From the publish to the check, milliseconds, of the scenarios unary, http, latency, memory and outage; all other patience is derived
    /// from it
    #[arg(long, default_value_t = CHECK_DELAY_MS, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    pub check_delay_ms: u64,
    /// Messages that upstream has accepted while the broker stands still, of the scenario memory
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    pub unconfirmed: u32,
    /// Messages that are lost in the scenario outage; as many as of one round unless it is said
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub lost: Option<u32>,
    /// How often outage is measured, which takes minutes a round
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub outages: u32,
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
    /// One message a call from 64 callers, beside a gRPC server that does nothing
    Unary,
    /// Delivery to a handler behind HTTP, beside a client and a server alone
    Http,
    /// From the send to the handler, beside the broker alone at the same pace
    Latency,
    /// Resident memory under load, and with many messages unconfirmed
    Memory,
    /// From the start of a service until it is ready
    Start,
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
    /// The same work by others: Celery, `FastStream`, amqplib, `BullMQ`
    Peers,
}

impl Scenario {
    /// As it is named on the command line and in the figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Unary => "unary",
            Self::Http => "http",
            Self::Latency => "latency",
            Self::Memory => "memory",
            Self::Start => "start",
            Self::Modes => "modes",
            Self::Guards => "guards",
            Self::Databases => "databases",
            Self::Outage => "outage",
            Self::Growth => "growth",
            Self::Peers => "peers",
        }
    }

    /// In a few words.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Stream => "batch sends to a handler in Rust, verified, beside publish, consume and ack alone",
            Self::Unary => "one message a call from 64 callers, verified, beside a gRPC server that does nothing",
            Self::Http => "delivery to a handler behind HTTP that does nothing, beside a client and a server alone",
            Self::Latency => {
                "from the send to the handler at 500/s and at three shares of full load, beside publish and consume alone"
            }
            Self::Memory => "resident memory of each service under a stream, and of upstream with many messages unconfirmed",
            Self::Start => "from the start of a service until it is ready",
            Self::Modes => "what the modes verified, outbox and confirmed cost, and what they write",
            Self::Guards => "what the guards of an effect cost: redis, inbox, tiered, redis+archive",
            Self::Databases => "the stream on PostgreSQL and on SQLite",
            Self::Outage => "a broker killed, a downstream away, messages lost: until everything is signed for again",
            Self::Growth => "the stream beside empty tables and beside grown ones",
            Self::Peers => "the same work by Celery, FastStream, amqplib and BullMQ, beside ours and the broker alone",
        }
    }
}
