//! What the demo breaks, one file each. What a fault reports is evidence of its effect, not that it was tried.

mod broker_restarted;
mod callback_killed;
mod downstream_killed;
mod messages_lost;
mod receipts_lost;
mod unbound;
mod upstream_killed;

use std::time::Duration;

use countersign_launcher::{Look, wait_until};

use crate::schedule::{Due, Fault};
use crate::sender::{BEFORE_UNBOUND, Tally};
use crate::stage::Stage;
use crate::teller::Teller;

/// How long one fault may wait for the moment at which it does harm.
const MOMENT: Duration = Duration::from_mins(1);
/// How long services may take to notice, or to die.
const NOTICE: Duration = Duration::from_secs(30);
/// How often the shop is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a fault has done.
#[derive(Debug, Clone)]
pub struct Struck {
    /// Which one.
    pub fault: Fault,
    /// How often, in the unit of its evidence; 0: it did not come to it.
    pub times: u64,
    /// What was seen of it, for people.
    pub evidence: String,
    /// Who says so.
    pub book: &'static str,
}

/// What the faults work on.
pub struct Scene<'a> {
    /// Servers and services.
    pub stage: &'a mut Stage,
    /// The same, to look at.
    pub look: Look,
    /// How many orders.
    pub orders: u32,
    /// What was sent and lost.
    pub tally: &'a Tally,
    /// Says what happens.
    pub teller: &'a Teller,
    /// What has struck so far.
    pub struck: Vec<Struck>,
}

impl Scene<'_> {
    /// Lets every fault strike when its point is reached.
    ///
    /// # Errors
    /// When a service does not come back, or a server does not answer: the demo cannot go on.
    pub async fn strike_all(&mut self, points: &[Due]) -> anyhow::Result<()> {
        self.tally.release(self.orders, BEFORE_UNBOUND);
        for due in points {
            // Upstream and downstream carry theirs in them and die by themselves.
            if due.fault == Fault::MessagesLost {
                messages_lost::prepare(self).await?;
            }
            if due.fault != Fault::UpstreamKilled {
                self.effects_reach(due.at).await?;
            }
            let struck = match due.fault {
                Fault::UpstreamKilled => upstream_killed::strike(self).await?,
                Fault::MessagesLost => messages_lost::strike(self).await?,
                Fault::DownstreamKilled => downstream_killed::strike(self).await?,
                Fault::Unbound => unbound::strike(self).await?,
                Fault::CallbackKilled => callback_killed::strike(self).await?,
                Fault::ReceiptsLost => receipts_lost::strike(self).await?,
                Fault::BrokerRestarted => broker_restarted::strike(self).await?,
            };
            self.teller.say(&format!("{}: {}", struck.fault, struck.evidence));
            self.struck.push(struck);
        }
        self.tally.release(self.orders, 1_000);
        Ok(())
    }

    /// Waits until the shop has processed so many orders, or can get no further because too many were lost.
    async fn effects_reach(&self, orders: u64) -> anyhow::Result<()> {
        loop {
            let processed = self.look.counts().await?.orders;
            if processed >= orders || self.tally.is_through(processed) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for the moment at which a fault does harm; false when it does not come.
    async fn moment(&self, what: &str, probe: impl AsyncFnMut() -> bool) -> bool {
        wait_until(what, MOMENT, probe).await.is_ok()
    }
}

/// With what upstream and downstream are started so that they die at their points; empty: they do not.
#[derive(Debug, Default)]
pub struct Failpoints {
    /// For upstream.
    pub upstream: String,
    /// For downstream.
    pub downstream: String,
}

impl Failpoints {
    /// The same points as in the schedule, in the passes of each failpoint.
    pub fn of(points: &[Due], orders: u32) -> Self {
        let mut failpoints = Self::default();
        for due in points {
            match due.fault {
                Fault::UpstreamKilled => failpoints.upstream = upstream_killed::failpoint(orders, due.at),
                Fault::DownstreamKilled => failpoints.downstream = downstream_killed::failpoint(due.at),
                _ => {}
            }
        }
        failpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failpoints_are_set_to_the_points_of_the_schedule() {
        let points = [Due { fault: Fault::UpstreamKilled, at: 1_300 }, Due { fault: Fault::DownstreamKilled, at: 3_001 }];
        let failpoints = Failpoints::of(&points, 10_000);
        assert_eq!(failpoints.upstream, "upstream.after_store=5*off->1*return");
        assert_eq!(failpoints.downstream, "downstream.after_effect=3001*off->1*return");
        assert_eq!(Failpoints::of(&[], 10_000).upstream, "");
    }
}
