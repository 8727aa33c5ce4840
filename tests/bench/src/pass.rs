//! One pass of batch sends through all seven steps.

use std::time::{Duration, Instant};

use countersign_launcher::Which;

use crate::rig::Rig;
use crate::{Book, load};

/// What it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    messages: u32,
    /// From the first call until the last was answered.
    sent: Duration,
    /// From the first call until callback had found every message signed, less the delay of the last check: until it comes due there is nothing
    /// to be done.
    took: Duration,
    /// Processor time of upstream, downstream and callback.
    cpu: [Duration; 3],
}

impl Rig {
    /// Sends so many more messages, and waits until they are verified as well.
    pub(crate) async fn pass(&mut self, messages: u32, body_bytes: usize) -> anyhow::Result<Pass> {
        let url = self.system.grpc_url(Which::Upstream);
        self.pass_by(messages, load::batches(url, messages, body_bytes)).await
    }

    /// The same with so many messages sent otherwise.
    pub(crate) async fn pass_by(
        &mut self,
        messages: u32,
        sends: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Pass> {
        self.cpu()?;
        let begun = Instant::now();
        sends.await?;
        let sent = begun.elapsed();
        self.sent += messages;
        self.verified(self.sent).await?;
        let took = begun.elapsed().saturating_sub(Duration::from_millis(self.check_delay_ms));
        Ok(Pass { messages, sent, took, cpu: self.cpu()? })
    }
}

impl Pass {
    /// Messages accepted a second.
    pub(crate) fn accepted(&self) -> f64 {
        f64::from(self.messages) / self.sent.as_secs_f64()
    }

    /// Messages verified a second.
    pub(crate) fn verified(&self) -> f64 {
        f64::from(self.messages) / self.took.as_secs_f64()
    }

    /// Notes the processor time of each service.
    pub(crate) fn note_cpu(&self, book: &mut Book, scenario: &'static str, leading: &str) {
        for (which, cpu) in ["upstream", "downstream", "callback"].into_iter().zip(self.cpu) {
            book.note(scenario, &format!("{leading}cpu {which}"), "µs/message", self.micros(cpu), None);
        }
    }

    /// A time, microseconds a message.
    pub(crate) fn micros(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / f64::from(self.messages)
    }
}
