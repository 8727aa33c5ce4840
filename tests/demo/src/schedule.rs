//! When which fault strikes: a pure function of the seed.

use std::fmt;

/// What the demo does to servers and services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Upstream kills itself between the commit and the publish, while `countersign send` waits for its answer.
    UpstreamKilled,
    /// Confirmed messages vanish from the work queue.
    MessagesLost,
    /// Downstream kills itself between an order's effect and its receipt.
    DownstreamKilled,
    /// The work queue has no binding for a while.
    Unbound,
    /// Callback is killed while it judges checks.
    CallbackKilled,
    /// Receipts vanish from their queue while callback is dead.
    ReceiptsLost,
    /// The broker is killed and started again.
    BrokerRestarted,
}

impl Fault {
    /// All of them, in the order in which they strike.
    pub const ALL: [Self; 7] = [
        Self::UpstreamKilled,
        Self::MessagesLost,
        Self::DownstreamKilled,
        Self::Unbound,
        Self::CallbackKilled,
        Self::ReceiptsLost,
        Self::BrokerRestarted,
    ];

    /// Between which thousandths of the orders it strikes. One window ends before the next begins: each fault meets a flow.
    const fn window(self) -> (u64, u64) {
        match self {
            Self::UpstreamKilled => (100, 160),
            Self::MessagesLost => (170, 220),
            Self::DownstreamKilled => (290, 360),
            Self::Unbound => (400, 470),
            Self::CallbackKilled => (520, 590),
            Self::ReceiptsLost => (590, 590),
            Self::BrokerRestarted => (660, 740),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpstreamKilled => "upstream killed between commit and publish",
            Self::MessagesLost => "work queue purged",
            Self::DownstreamKilled => "downstream killed between effect and receipt",
            Self::Unbound => "work queue unbound",
            Self::CallbackKilled => "callback killed while it judged checks",
            Self::ReceiptsLost => "receipts purged",
            Self::BrokerRestarted => "broker killed and restarted",
        })
    }
}

/// One fault and its point: effects in the shop, but for [`Fault::UpstreamKilled`] orders handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// What strikes.
    pub fault: Fault,
    /// When.
    pub at: u64,
}

/// Draws the point of every fault. What is left out later does not move the others.
pub fn draw(seed: u64, orders: u32) -> Vec<Due> {
    let mut random = fastrand::Rng::with_seed(seed);
    let due = |fault: Fault| {
        let (from, to) = fault.window();
        Due { fault, at: u64::from(orders) * random.u64(from..=to) / 1_000 }
    };
    Fault::ALL.map(due).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_points_and_another_one_others() {
        assert_eq!(draw(7, 10_000), draw(7, 10_000));
        assert_ne!(draw(7, 10_000), draw(8, 10_000));
    }

    #[test]
    fn every_fault_strikes_once_within_its_window_and_after_the_one_before() {
        for (seed, orders) in (0..1_000).zip([1_000, 10_000, 99_999].into_iter().cycle()) {
            let points = draw(seed, orders);
            assert_eq!(points.iter().map(|due| due.fault).collect::<Vec<_>>(), Fault::ALL);
            for due in &points {
                let (from, to) = due.fault.window();
                let orders = u64::from(orders);
                assert!((orders * from / 1_000..=orders * to / 1_000).contains(&due.at), "{seed} {due:?}");
            }
            assert!(points.windows(2).all(|pair| pair[0].at <= pair[1].at), "{seed} {points:?}");
        }
    }

    #[test]
    fn the_points_of_one_seed_stay_as_they_are() {
        let points: Vec<_> = draw(1, 10_000).iter().map(|due| due.at).collect();
        assert_eq!(points, POINTS_OF_SEED_1);
    }

    /// A report names a seed; it must mean the same tomorrow.
    const POINTS_OF_SEED_1: [u64; 7] = [1_400, 1_970, 3_070, 4_550, 5_200, 5_900, 7_220];
}
