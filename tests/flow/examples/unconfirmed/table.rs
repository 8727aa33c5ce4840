//! The figures, one line a run.

use crate::probe::Percentiles;

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub messages: f64,
    /// Resident memory before anything was sent, with all messages waiting, and at its highest, MB.
    pub idle_mb: f64,
    pub waiting_mb: f64,
    pub peak_mb: f64,
    pub stored_per_second: f64,
    pub published_per_second: f64,
    /// Messages in the work queue beyond those that were accepted.
    pub published_twice: f64,
    pub at_rest: Percentiles,
    pub meanwhile: Percentiles,
}

/// The names of the columns.
pub fn head() {
    println!(
        "| run | messages | MB idle | MB waiting | MB peak | stored/s | published/s | twice | at rest p50, p99 ms | meanwhile p50, p99 ms, not in time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

impl Run {
    pub fn print(&self, name: &str) {
        let Self { messages, idle_mb, waiting_mb, peak_mb, stored_per_second, published_per_second, published_twice, .. } = self;
        let (at_rest, meanwhile) = (self.at_rest, self.meanwhile);
        println!(
            "| {name} | {messages} | {idle_mb:.0} | {waiting_mb:.0} | {peak_mb:.0} | {stored_per_second:.0} | {published_per_second:.0} | \
             {published_twice} | {:.1}, {:.1} | {:.1}, {:.1}, {} |",
            at_rest.p50, at_rest.p99, meanwhile.p50, meanwhile.p99, meanwhile.unconfirmed
        );
    }

    /// The median of each column.
    pub fn median(runs: &[Self]) -> Self {
        let of = |column: fn(&Self) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(column).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        let percentiles = |p50, p99, unconfirmed| Percentiles { p50, p99, unconfirmed };
        Self {
            messages: of(|run| run.messages),
            idle_mb: of(|run| run.idle_mb),
            waiting_mb: of(|run| run.waiting_mb),
            peak_mb: of(|run| run.peak_mb),
            stored_per_second: of(|run| run.stored_per_second),
            published_per_second: of(|run| run.published_per_second),
            published_twice: of(|run| run.published_twice),
            at_rest: percentiles(of(|run| run.at_rest.p50), of(|run| run.at_rest.p99), of(|run| run.at_rest.unconfirmed)),
            meanwhile: percentiles(of(|run| run.meanwhile.p50), of(|run| run.meanwhile.p99), of(|run| run.meanwhile.unconfirmed)),
        }
    }
}
