//! How many messages of a subscription are started in a second.

use std::time::Duration;

use tokio::time::Instant;

/// What may be started at once after a quiet time: this part of a second's worth, and at least one.
const BURST: u32 = 10;

/// A token bucket. It holds a tenth of a second's worth, so that what comes after a quiet time is no wave.
///
/// One loop asks and takes; what has been found ready stays so until it is taken.
#[derive(Debug)]
pub struct Rate {
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    /// From one start to the next.
    interval: Duration,
    /// How far starts may run ahead of their time.
    ahead: Duration,
    /// When the bucket is full again.
    full_at: Instant,
}

impl Rate {
    /// So many starts a second; none: as many as there are.
    #[must_use]
    pub fn new(per_second: Option<u32>) -> Self {
        let limit = per_second.map(|per_second| {
            let per_second = per_second.max(1);
            let interval = Duration::from_secs(1) / per_second;
            let burst = (per_second / BURST).max(1);
            Limit { interval, ahead: interval * (burst - 1), full_at: Instant::now() }
        });
        Self { limit }
    }

    /// When a message may be started; none: now.
    fn wait_until(&self) -> Option<Instant> {
        let limit = self.limit.as_ref()?;
        let at = limit.full_at.checked_sub(limit.ahead)?;
        (at > Instant::now()).then_some(at)
    }

    /// Waits until a message may be started.
    pub async fn ready(&self) {
        if let Some(at) = self.wait_until() {
            tokio::time::sleep_until(at).await;
        }
    }

    /// Whether a message may be started now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.wait_until().is_none()
    }

    /// A message is started.
    pub fn take(&mut self) {
        if let Some(limit) = &mut self.limit {
            limit.full_at = limit.full_at.max(Instant::now()) + limit.interval;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn starts(rate: &mut Rate, within: Duration) -> u32 {
        let end = Instant::now() + within;
        let mut starts = 0;
        while tokio::time::timeout_at(end, rate.ready()).await.is_ok() {
            rate.take();
            starts += 1;
        }
        starts
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_start_in_a_second_and_a_burst_is_a_tenth_of_that() {
        let mut rate = Rate::new(Some(50));
        assert_eq!(starts(&mut rate, Duration::from_millis(1)).await, 5, "the burst");
        let ten_seconds = starts(&mut rate, Duration::from_secs(10)).await;
        assert!((499..=501).contains(&ten_seconds), "{ten_seconds}");
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(starts(&mut rate, Duration::from_millis(1)).await, 5, "a quiet minute is no debt");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_rate_starts_one_at_a_time() {
        let mut rate = Rate::new(Some(2));
        assert!(rate.is_ready());
        rate.take();
        assert!(!rate.is_ready());
        rate.ready().await;
        rate.take();
        assert_eq!(starts(&mut rate, Duration::from_millis(2_100)).await, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits() {
        let mut rate = Rate::new(None);
        for _ in 0..10_000 {
            assert!(rate.is_ready());
            rate.take();
        }
    }
}
