//! The consumer's edge of one subscription: takes deliveries in, starts them within bounds, settles them.
//!
//! **Invariant:** ack is chosen in one place ([`Lane::settle`]); nothing is ever nacked. What must not be acked stays unsettled and goes
//! back to the queue when its consumer is dropped.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Failpoint, Stop, Tasks, failpoint};
use countersign_delivery::FailReason;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Consumer, Consumers, Delivered, Handle, Settlement, Settler};
use countersign_delivery::receipt::{Outcome as Signed, ProbeAnswer};
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::arrived::{self, Arrived, Held, Kind};
use crate::breaker::Pass;
use crate::desk::Claiming;
use crate::gate::{Gate, Opening};
use crate::pause::Paused;
use crate::rate::Rate;
use crate::receive::{Company, Outcome, Reception, Refused, receive, refuse};

/// Reports of what is held are looked for this often within `progress_after`.
const LOOKS: u32 = 4;
/// A report, and a lease, is renewed this often within its life.
const RENEWALS: u32 = 3;

/// When the gate closes: how long what is completed already has to be signed and acked.
const LAST_ACKS: Duration = Duration::from_secs(2);

/// The bounds of one subscription's consumer.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most unsettled deliveries.
    pub prefetch: u16,
    /// Most handlers at a time.
    pub concurrency: u32,
    /// Most deliveries taken in at a time.
    pub max_batch: usize,
    /// Most messages started in a second; none: no bound.
    pub rate_per_second: Option<u32>,
    /// The lease of claims and of what is reported as held.
    pub lease: Duration,
    /// What is held for longer is reported.
    pub progress_after: Duration,
}

/// One subscription at work.
pub struct Lane {
    /// What each message is taken through.
    pub reception: Reception,
    /// Where deliveries come from.
    pub consumers: Arc<dyn Consumers>,
    /// Whether the claim record can be used.
    pub gate: Gate,
    /// Whether an operator wants it to stand still.
    pub paused: Paused,
    /// How much at a time.
    pub bounds: Bounds,
    /// When to stop.
    pub stop: Stop,
    /// Where messages are handled.
    pub tasks: Tasks,
}

/// Whatever way handling ends, the message is no longer held.
struct Leave<'a>(&'a Held, &'a Arrived);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

/// What one run of a consumer ended with.
enum Ended {
    /// Soft stop: consume no more.
    Stopped,
    /// The gate closed: consume again when it opens.
    GateClosed,
    /// An operator has paused the subscription: consume again when it is resumed.
    Paused,
}

/// What is under way, shared with the tasks that do it.
struct UnderWay {
    handlers: Arc<Semaphore>,
    work: TaskTracker,
    rate: Rate,
}

impl Lane {
    /// Consumes until soft stop, then waits for what is under way.
    ///
    /// # Errors
    /// [`PortError`] when the queue can never be consumed.
    pub async fn run(self: Arc<Self>) -> Result<(), PortError> {
        tokio::select! {
            ended = self.consume() => ended,
            () = self.report_forever() => Ok(()),
            () = self.renew_forever() => Ok(()),
        }
    }

    async fn consume(self: &Arc<Self>) -> Result<(), PortError> {
        let concurrency = usize::try_from(self.bounds.concurrency).unwrap_or(Semaphore::MAX_PERMITS);
        let rate = Rate::new(self.bounds.rate_per_second);
        let mut under_way = UnderWay { handlers: Arc::new(Semaphore::new(concurrency)), work: TaskTracker::new(), rate };
        loop {
            let opening = tokio::select! {
                () = self.stop.soft() => return Ok(()),
                opening = self.opened() => opening,
            };
            let queue = self.reception.subscription.name.as_str();
            let mut consumer = self.consumers.consume(queue, self.bounds.prefetch).await?;
            let mut backlog = VecDeque::new();
            let ended = self.take(consumer.as_mut(), opening, &mut backlog, &mut under_way).await;
            if matches!(ended, Ended::Paused) {
                // As long as this consumer lives nobody else gets what waits: until then it is reported as held.
                self.quiet(&under_way).await;
            }
            for arrived in backlog.drain(..) {
                self.reception.held.leave(&arrived);
            }
            match ended {
                // What is under way is acked through this consumer; only then is it dropped, and the rest goes back.
                Ended::Stopped => {
                    self.quiet(&under_way).await;
                    return Ok(());
                }
                // What is completed already may still be signed and acked. Then its messages go back; and since those come again while
                // claims on some of them live here, these end before anything is consumed anew.
                Ended::GateClosed => {
                    let _ = tokio::time::timeout(LAST_ACKS, self.quiet(&under_way)).await;
                    drop(consumer);
                    self.quiet(&under_way).await;
                }
                // Everything that was started is settled; the rest goes back with the consumer.
                Ended::Paused => drop(consumer),
            }
        }
    }

    /// Waits until messages may be consumed.
    async fn opened(&self) -> Opening {
        self.paused.resumed().await;
        self.gate.opened().await
    }

    /// Waits until nothing is under way, at most until hard stop.
    async fn quiet(&self, under_way: &UnderWay) {
        under_way.work.close();
        tokio::select! {
            () = under_way.work.wait() => {}
            () = self.stop.hard() => {}
        }
        under_way.work.reopen();
    }

    /// Takes in and starts, until soft stop, a pause, or until the gate closes.
    async fn take(
        self: &Arc<Self>,
        consumer: &mut dyn Consumer,
        opening: Opening,
        backlog: &mut VecDeque<Arc<Arrived>>,
        under_way: &mut UnderWay,
    ) -> Ended {
        let settler = consumer.settler();
        loop {
            tokio::select! {
                biased;
                () = self.stop.soft() => return Ended::Stopped,
                () = self.gate.closed(opening) => return Ended::GateClosed,
                () = self.paused.begun() => return Ended::Paused,
                delivered = consumer.next(self.bounds.max_batch) => self.take_in(delivered, &settler, backlog, under_way),
                (permit, pass) = self.free(under_way), if !backlog.is_empty() => {
                    self.start(backlog, permit, pass, under_way);
                }
            }
        }
    }

    async fn free(&self, under_way: &UnderWay) -> (Option<OwnedSemaphorePermit>, Pass) {
        loop {
            under_way.rate.ready().await;
            // Before the permit: a suspect that is on trial waits for all permits, and would never get one that waits for its trial to end.
            let pass = self.reception.breaker.pass().await;
            // The semaphore is never closed; without a permit nothing would be started.
            let permit = under_way.handlers.clone().acquire_owned().await.ok();
            // Handlers that end together are free together: one turn for the others, which takes no time if there are none.
            tokio::task::yield_now().await;
            if pass.is_good() {
                return (permit, pass);
            }
        }
    }

    fn take_in(
        self: &Arc<Self>,
        delivered: Vec<Delivered>,
        settler: &Arc<dyn Settler>,
        backlog: &mut VecDeque<Arc<Arrived>>,
        under_way: &UnderWay,
    ) {
        failpoint(Failpoint::DownstreamAfterDelivery);
        let Some(generation) = delivered.last().map(|newest| newest.handle.generation) else { return };
        // What came over a connection that is gone comes again.
        backlog.retain(|waiting| {
            let current = waiting.delivered.handle.generation == generation;
            if !current {
                self.reception.held.leave(waiting);
            }
            current
        });
        let mut probes = Vec::new();
        for delivered in delivered {
            match arrived::read(&delivered, &self.reception.subscription.name) {
                Kind::Probe(answer) => probes.push((delivered.handle, answer)),
                Kind::Message(arrival) => backlog.push_back(self.reception.held.enter(delivered, *arrival, settler.clone())),
                Kind::Undecodable(receipt, error) => {
                    let refused = Refused::Dead { receipt, reason: FailReason::Undecodable, detail: error.to_string() };
                    self.start_refusal(delivered, refused, settler, under_way);
                }
                Kind::Unknown(error) => {
                    self.start_refusal(delivered, Refused::Quarantined { detail: error.to_string() }, settler, under_way);
                }
            }
        }
        if !probes.is_empty() {
            self.start_answers(probes, settler, under_way);
        }
    }

    /// Starts what waits, as far as handlers are free. Only what has its handler is claimed, all of it in one round trip: if the process
    /// dies, nothing else is blamed.
    fn start(
        self: &Arc<Self>,
        backlog: &mut VecDeque<Arc<Arrived>>,
        first: Option<OwnedSemaphorePermit>,
        pass: Pass,
        under_way: &mut UnderWay,
    ) {
        let (mut free, mut started) = (first.map(|permit| (permit, pass)), Vec::new());
        while let Some((permit, pass)) = free.take() {
            let Some(arrived) = backlog.pop_front() else { break };
            started.push((arrived, permit, pass));
            under_way.rate.take();
            let room = !backlog.is_empty() && under_way.rate.is_ready();
            let more = if room { under_way.handlers.clone().try_acquire_owned().ok() } else { None };
            free = more.and_then(|permit| Some((permit, self.reception.breaker.pass_now()?)));
        }
        let claims = started.iter().map(|(arrived, ..)| self.reception.claim_for(arrived)).collect();
        let (claiming, asking) = self.reception.desk.claim_together(claims);
        self.spawn("claim", under_way, asking);
        for ((arrived, permit, pass), claiming) in started.into_iter().zip(claiming) {
            let (lane, handlers) = (self.clone(), under_way.handlers.clone());
            self.spawn("receive", under_way, async move { lane.process(&arrived, claiming, permit, pass, handlers).await });
        }
    }

    async fn process(
        &self,
        arrived: &Arrived,
        claiming: Claiming,
        permit: OwnedSemaphorePermit,
        pass: Pass,
        handlers: Arc<Semaphore>,
    ) {
        let _left = Leave(&self.reception.held, arrived);
        arrived.start();
        let mut place = Some(permit);
        let mut outcome = receive(&self.reception, arrived, Some(claiming), Company::Others, &mut place).await;
        if outcome == Outcome::Suspect {
            drop(place);
            // The semaphore is never closed.
            place = handlers.acquire_many_owned(self.bounds.concurrency).await.ok();
            outcome = receive(&self.reception, arrived, None, Company::Alone, &mut place).await;
        }
        drop((place, pass));
        self.settle(&*arrived.settler, &[arrived.delivered.handle], outcome).await;
    }

    /// The one place where AMQP settlement is chosen.
    async fn settle(&self, settler: &dyn Settler, handles: &[Handle], outcome: Outcome) {
        self.reception.meters.ended(outcome);
        match outcome {
            Outcome::Done | Outcome::DoneBefore | Outcome::Retrying | Outcome::PutBack | Outcome::Failed(_) => {
                settler.settle(handles, Settlement::Ack).await;
            }
            // Goes back when the consumer is dropped, which the closed gate or the stop brings about.
            Outcome::Suspect | Outcome::ClaimsAway | Outcome::GivenUp => {}
        }
    }

    fn start_refusal(self: &Arc<Self>, delivered: Delivered, refused: Refused, settler: &Arc<dyn Settler>, under_way: &UnderWay) {
        let (lane, settler) = (self.clone(), settler.clone());
        self.spawn("refuse", under_way, async move {
            let outcome = refuse(&lane.reception, &delivered, refused).await;
            lane.settle(&*settler, &[delivered.handle], outcome).await;
        });
    }

    /// Probes are signed at once and without a handler, however many messages wait.
    fn start_answers(self: &Arc<Self>, probes: Vec<(Handle, ProbeAnswer)>, settler: &Arc<dyn Settler>, under_way: &UnderWay) {
        let (lane, settler) = (self.clone(), settler.clone());
        self.spawn("probes", under_way, async move {
            let (handles, answers): (Vec<_>, Vec<_>) = probes.into_iter().unzip();
            let signed = futures::future::join_all(answers.into_iter().map(|answer| lane.reception.signer.answer(answer))).await;
            let confirmed = handles.into_iter().zip(signed).filter_map(|(handle, signed)| signed.then_some(handle));
            settler.settle(&confirmed.collect::<Vec<_>>(), Settlement::Ack).await;
        });
    }

    /// Spawns what soft stop waits for and hard stop drops.
    fn spawn(&self, name: &'static str, under_way: &UnderWay, work: impl Future<Output = ()> + Send + 'static) {
        let token = under_way.work.token();
        // In one place from here on: what a message is taken through is large, and would be moved by each layer around it.
        let work = Box::pin(work);
        let bounded = AssertUnwindSafe(self.stop.hard_token().run_until_cancelled_owned(work)).catch_unwind();
        let gate = self.gate.clone();
        drop(self.tasks.spawn(name, async move {
            let ended = bounded.await;
            if let Err(panic) = ended {
                // What it held is settled by nobody: have the consumer dropped, so that it goes back.
                gate.close("a task has panicked");
                std::panic::resume_unwind(panic);
            }
            drop(token);
        }));
    }

    async fn report_forever(&self) {
        let Bounds { lease, progress_after, .. } = self.bounds;
        loop {
            tokio::time::sleep((progress_after / LOOKS).max(Duration::from_millis(1))).await;
            for arrived in self.reception.held.to_report(progress_after, lease / RENEWALS) {
                let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
                let receipt = arrived.receipt(&self.reception.subscription.name, Signed::Processing { lease_ms });
                if self.reception.signer.report(receipt) {
                    arrived.reported();
                }
            }
        }
    }

    async fn renew_forever(&self) {
        loop {
            tokio::time::sleep(self.bounds.lease / RENEWALS).await;
            self.reception.desk.renew(&self.reception.held.claims()).await;
        }
    }
}
