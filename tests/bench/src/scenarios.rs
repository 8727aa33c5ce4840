//! What is measured, one file a scenario.

mod stream;
mod unary;

use crate::{Book, Options, Scenario};

/// Runs one, and notes its figures.
pub(crate) async fn measure(scenario: Scenario, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    match scenario {
        Scenario::Stream => stream::measure(options, book).await,
        Scenario::Unary => unary::measure(options, book).await,
    }
}
