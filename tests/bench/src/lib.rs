//! The benchmark: the real binaries on private servers, beside the broker alone on the same machine in the same run.
//!
//! Every scenario measures in rounds; within a round what is compared runs one right after the other, so that a ratio is taken from one
//! moment of the machine. A message counts when its check has found it signed. Nothing is left out of the path: quorum queues, persistent
//! messages, confirms, `PostgreSQL` with fsync, Redis with its append-only file. A round fails if one message is missing or was handled
//! twice, or if a service has seen an invariant violated.

#![allow(clippy::disallowed_methods, reason = "a tool without a launch frame; the ban is for the product")]

mod beside;
mod book;
mod curve;
mod draw;
mod floors;
mod load;
mod machine;
mod options;
mod pass;
mod peers;
pub mod plot;
mod process;
mod raw;
mod readings;
mod rig;
mod scenarios;
mod servers;
pub mod table;
pub mod tally;

/// The program that embeds downstream and counts.
const HANDLER: &str = "bench-handler";

pub use book::{Book, Report, Row};
pub use draw::drawn;
pub use options::{Options, Scenario};

/// Runs the scenarios that were named, or all, prints every figure, and writes them where `--json` says.
///
/// # Errors
/// When a server or binary is missing, a message is missing or was handled twice, or with `--assert-floors` a figure is below its floor.
pub async fn run(options: Options) -> anyhow::Result<()> {
    if options.draw {
        return draw::write();
    }
    let begun = jiff::Timestamp::now();
    let mut book = Book::default();
    for scenario in options.chosen() {
        println!("\n== {}: {}", scenario.name(), scenario.what());
        scenarios::measure(scenario, &options, &mut book).await?;
    }
    println!("\n{}", book.table());
    if let Some(file) = &options.json {
        book.write(file, begun)?;
        println!("written to {}", file.display());
    }
    if options.assert_floors { floors::hold(&book.rows()) } else { Ok(()) }
}
