//! Hands the orders in: one `countersign send --file` after another, never far ahead of what the shop has processed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_launcher::{EXCHANGE, Look, Program, Running, binary};

/// Into so many files the orders are divided, within the bounds below.
const FILES: u32 = 40;
/// Orders in a file.
const FILE_ORDERS: (u32, u32) = (100, 500);
/// Rows that upstream commits at a time: its default `commit_batch`.
const COMMIT_ROWS: u32 = 256;
/// Orders handed in and not processed, at least: more than downstream's default `prefetch`, so that a queue builds up.
const AHEAD_LEAST: u64 = 400;
/// How long one `countersign send` may take; its own patience with a batch is a minute.
const ONE_FILE: Duration = Duration::from_mins(3);
/// How often the shop is asked whether there is room for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What `countersign` ends with when a service did not answer: the same command again is the right answer.
const AWAY: i32 = 3;

/// Thousandths of the orders that are handed in before the work queue is unbound, and before the broker is killed: both must meet sends.
pub const BEFORE_UNBOUND: u64 = 700;
/// See [`BEFORE_UNBOUND`].
pub const BEFORE_RESTART: u64 = 950;

/// What `countersign send` has said so far, and what is known to be gone. Read by everybody, written by the sender and the purge.
#[derive(Debug, Default)]
pub struct Tally {
    /// Accepted for the first time.
    pub accepted: AtomicU64,
    /// Accepted before: the answer was lost, the command asked again.
    pub known: AtomicU64,
    /// Refused for good.
    pub refused: AtomicU64,
    /// Runs of the command that ended with "a service did not answer" and were repeated.
    pub repeated: AtomicU64,
    /// Purged from the work queue.
    pub lost: AtomicU64,
    /// Orders that may be handed in by now.
    pub released: AtomicU64,
}

impl Tally {
    /// One figure.
    pub fn get(figure: &AtomicU64) -> u64 {
        figure.load(Ordering::Relaxed)
    }

    /// Adds to one figure.
    pub fn add(figure: &AtomicU64, more: u64) {
        figure.fetch_add(more, Ordering::Relaxed);
    }

    /// Lets orders be handed in up to so many thousandths, in whole files.
    pub fn release(&self, orders: u32, thousandths: u64) {
        let file = u64::from(file_orders(orders));
        let up_to = if thousandths >= 1_000 { u64::from(orders) } else { u64::from(orders) * thousandths / 1_000 / file * file };
        self.released.store(up_to, Ordering::Relaxed);
    }

    /// Whether all that was handed in is processed or purged, and nothing more comes before somebody releases it.
    pub fn is_through(&self, processed: u64) -> bool {
        self.sent() >= Self::get(&self.released) && processed + Self::get(&self.lost) >= self.sent()
    }

    /// Orders that upstream has promised to deliver.
    pub fn sent(&self) -> u64 {
        Self::get(&self.accepted) + Self::get(&self.known)
    }
}

/// Orders in one file.
pub fn file_orders(orders: u32) -> u32 {
    (orders / FILES).clamp(FILE_ORDERS.0, FILE_ORDERS.1)
}

/// After how many commits upstream has stored so many orders; each file takes commits of its own.
pub fn commits(orders: u32, sent: u64) -> u64 {
    let file = file_orders(orders);
    sent / u64::from(file) * u64::from(file.div_ceil(COMMIT_ROWS))
}

/// What the sender needs.
pub struct Sender<'a> {
    /// How many orders.
    pub orders: u32,
    /// Where its files and logs go.
    pub dir: PathBuf,
    /// Upstream's gRPC address.
    pub upstream: String,
    /// To see how far the shop is.
    pub look: Look,
    /// What came of it.
    pub tally: &'a Tally,
}

impl Sender<'_> {
    /// Sends everything.
    ///
    /// # Errors
    /// When the command refuses its input or does not end.
    pub async fn send_all(&self) -> anyhow::Result<()> {
        let file = file_orders(self.orders);
        for first in (1..=self.orders).step_by(file as usize) {
            let last = self.orders.min(first + file - 1);
            self.room_for(u64::from(last - first + 1)).await?;
            let path = self.dir.join(format!("orders-{first:06}.jsonl"));
            std::fs::write(&path, (first..=last).map(line).collect::<String>())?;
            while !self.send(&path).await? {
                Tally::add(&self.tally.repeated, 1);
            }
        }
        Ok(())
    }

    /// Waits until the shop has caught up far enough. What was purged does not count: it would hold up everything.
    async fn room_for(&self, more: u64) -> anyhow::Result<()> {
        let ahead = AHEAD_LEAST.max(u64::from(self.orders) / 10);
        loop {
            let gone = self.look.counts().await?.orders + Tally::get(&self.tally.lost);
            let with_these = self.tally.sent() + more;
            if with_these <= Tally::get(&self.tally.released) && with_these.saturating_sub(gone) <= ahead {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One `countersign send --file`, as a user would run it; false when upstream was away for longer than the command's patience.
    async fn send(&self, path: &std::path::Path) -> anyhow::Result<bool> {
        let sending: Running = Program::new(binary("countersign")?)
            .args(["--upstream", &self.upstream, "-o", "json"])
            .args(["send", "--exchange", EXCHANGE, "--type", "order.created", "--id-field", "order_id", "--file"])
            .arg(path)
            .log_to(self.dir.join("send.log"))
            .spawn()?;
        let status = sending.wait(ONE_FILE).await?;
        let said = sending.log_text();
        if status.code() == Some(AWAY) {
            tokio::time::sleep(LOOK_EVERY).await;
            return Ok(false);
        }
        if !matches!(status.code(), Some(0 | 1)) {
            bail!("countersign send ended with {status}: {said}");
        }
        let answer: serde_json::Value = serde_json::from_str(&said).with_context(|| format!("countersign send said {said}"))?;
        let tally = self.tally;
        for (figure, name) in [(&tally.accepted, "accepted"), (&tally.known, "duplicate"), (&tally.refused, "rejected")] {
            Tally::add(figure, answer[name].as_u64().with_context(|| format!("no {name} in {said}"))?);
        }
        Ok(true)
    }
}

/// One order as a line of its file.
fn line(order: u32) -> String {
    format!("{{\"order_id\":\"A-{order}\",\"article\":{},\"pieces\":{}}}\n", order % 97, 1 + order % 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_never_larger_than_the_command_sends_in_one_call() {
        let rows = [(1_000, 100), (10_000, 250), (20_000, 500), (100_000, 500)];
        assert!(rows.iter().all(|(orders, file)| file_orders(*orders) == *file));
    }

    #[test]
    fn orders_are_released_in_whole_files_and_all_of_them_at_the_end() {
        let tally = Tally::default();
        for (orders, thousandths, wanted) in [(1_000, 700, 700), (1_000, 950, 900), (10_000, 950, 9_500), (1_050, 1_000, 1_050)] {
            tally.release(orders, thousandths);
            assert_eq!(Tally::get(&tally.released), wanted);
        }
    }

    #[test]
    fn it_is_through_when_everything_released_is_processed_or_lost() {
        let tally = Tally::default();
        tally.release(1_000, 700);
        Tally::add(&tally.accepted, 600);
        Tally::add(&tally.lost, 100);
        assert!(!tally.is_through(600), "100 more are released");
        Tally::add(&tally.known, 100);
        assert!(!tally.is_through(599) && tally.is_through(600));
    }

    #[test]
    fn commits_are_counted_file_by_file() {
        for (orders, sent, wanted) in
            [(10_000, 0, 0), (10_000, 1_200, 4), (10_000, 1_250, 5), (100_000, 1_000, 4), (1_000, 199, 1)]
        {
            assert_eq!(commits(orders, sent), wanted, "{sent} of {orders}");
        }
    }
}
