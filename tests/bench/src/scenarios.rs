//! What is measured, one file a scenario.

mod databases;
mod growth;
mod guards;
mod http;
mod latency;
mod memory;
mod modes;
mod outage;
mod peers;
mod start;
mod stream;
mod unary;

use crate::{Book, Options, Scenario};

/// Runs one, and notes its figures.
pub(crate) async fn measure(scenario: Scenario, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    match scenario {
        Scenario::Stream => stream::measure(options, book).await,
        Scenario::Unary => unary::measure(options, book).await,
        Scenario::Http => http::measure(options, book).await,
        Scenario::Latency => latency::measure(options, book).await,
        Scenario::Memory => memory::measure(options, book).await,
        Scenario::Start => start::measure(options, book).await,
        Scenario::Modes => modes::measure(options, book).await,
        Scenario::Guards => guards::measure(options, book).await,
        Scenario::Databases => databases::measure(options, book).await,
        Scenario::Outage => outage::measure(options, book).await,
        Scenario::Growth => growth::measure(options, book).await,
        Scenario::Peers => peers::measure(options, book).await,
    }
}
