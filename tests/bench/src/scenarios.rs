//! What is measured, one file a scenario.

mod peers;
mod stream;

use crate::{Book, Options, Scenario};

/// Runs one, and notes its figures.
pub(crate) async fn measure(scenario: Scenario, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    match scenario {
        Scenario::Stream => stream::measure(options, book).await,
        Scenario::Peers => peers::measure(options, book).await,
    }
}
