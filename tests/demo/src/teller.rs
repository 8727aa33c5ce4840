//! What is seen while it runs: events as lines, and between them one line that refreshes itself, or one line a second in a pipe.

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use countersign_launcher::{Look, Which};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::sender::Tally;

/// How often progress is printed into a pipe, and refreshed on a terminal.
const EVERY: Duration = Duration::from_secs(1);
const EVERY_ON_TERMINAL: Duration = Duration::from_millis(250);

/// Prints events and progress.
pub struct Teller {
    bar: Option<ProgressBar>,
    begun: Instant,
    orders: u64,
}

/// A counter of a process that may be killed: its earlier lives count as well.
#[derive(Debug, Default)]
struct Lives {
    before: f64,
    last: f64,
}

impl Lives {
    /// Takes the newest reading; a smaller one is that of a new life. Without a reading the last one stands.
    fn read(&mut self, now: Option<f64>) -> f64 {
        if let Some(now) = now {
            if now < self.last {
                self.before += self.last;
            }
            self.last = now;
        }
        self.before + self.last
    }
}

impl Teller {
    /// Begins now.
    ///
    /// # Errors
    /// Never, unless the template of the bar is wrong.
    pub fn new(orders: u32) -> anyhow::Result<Self> {
        let orders = u64::from(orders);
        let bar = if std::io::stdout().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(orders), ProgressDrawTarget::stdout());
            bar.set_style(ProgressStyle::with_template("{bar:30} {msg}")?);
            Some(bar)
        } else {
            None
        };
        Ok(Self { bar, begun: Instant::now(), orders })
    }

    /// One event.
    pub fn say(&self, event: &str) {
        let line = format!("{:>5.1} s  {event}", self.begun.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => println!("{line}"),
        }
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes the refreshing line away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prints progress until it is dropped.
    pub async fn tell(&self, look: &Look, tally: &Tally) -> Infallible {
        let (mut receipts, mut resends) = (Lives::default(), Lives::default());
        let mut pause = tokio::time::interval(if self.bar.is_some() { EVERY_ON_TERMINAL } else { EVERY });
        pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pause.tick().await;
            let signed = look.metric(Which::Callback, "countersign_receipts_total", "outcome=\"done\"").await.ok();
            let again = look.metric(Which::Callback, "countersign_resend_orders_total", "outcome=\"resent\"").await.ok();
            let (signed, again) = (receipts.read(signed), resends.read(again));
            let Ok(shop) = look.counts().await else { continue };
            let line = format!(
                "sent {:>6}  processed {:>6}  receipts {signed:>6}  sent again {again:>4}  repeats absorbed {:>3}",
                tally.sent(),
                shop.orders,
                shop.duplicates,
            );
            match &self.bar {
                Some(bar) => {
                    bar.set_position(shop.orders);
                    bar.set_message(line);
                }
                None => self.say(&format!("{line}  of {}", self.orders)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lives;

    #[test]
    fn the_count_of_a_killed_process_is_not_forgotten() {
        let mut lives = Lives::default();
        let readings = [Some(3.0), Some(10.0), None, Some(2.0), Some(5.0)].map(|reading| lives.read(reading));
        assert!(readings.iter().zip([3.0, 10.0, 10.0, 12.0, 15.0]).all(|(seen, wanted)| (seen - wanted).abs() < f64::EPSILON));
    }
}
