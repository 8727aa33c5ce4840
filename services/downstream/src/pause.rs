//! Whether an operator has paused a subscription. What all processes share is looked at again and again; in between, and while it is away,
//! the last known state stands.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::Dependency;
use countersign_delivery::SubscriptionName;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::pauses::{Pause, Pauses};
use countersign_telemetry::{names, with_sources};
use tokio::sync::watch;

/// Longest time from an operator's order to its effect in another process.
pub const LOOK_MAX: Duration = Duration::from_secs(1);

/// What is known of one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing yet: it may be paused, so nothing is handled.
    Nothing,
    /// What the last look found.
    This(Option<Pause>),
}

/// The pause of one subscription in this process; clones are one.
#[derive(Clone, Debug)]
pub struct Paused {
    name: SubscriptionName,
    known: Arc<watch::Sender<Known>>,
}

impl Paused {
    /// Of a subscription whose record has not been looked at.
    #[must_use]
    pub fn unknown(name: SubscriptionName) -> Self {
        Self { name, known: Arc::new(watch::Sender::new(Known::Nothing)) }
    }

    /// Of a subscription that cannot be paused.
    #[must_use]
    pub fn never(name: SubscriptionName) -> Self {
        let paused = Self::unknown(name);
        paused.found(None);
        paused
    }

    /// What the record says.
    pub fn found(&self, pause: Option<Pause>) {
        let now = if pause.is_some() { 1.0 } else { 0.0 };
        metrics::gauge!(names::SUBSCRIPTION_PAUSED, "subscription" => self.name.to_string()).set(now);
        let found = Known::This(pause);
        self.known.send_if_modified(|known| {
            if *known == found {
                return false;
            }
            match (&known, &found) {
                (_, Known::This(Some(Pause { reason, by, .. }))) => {
                    tracing::warn!(subscription = %self.name, reason, by, "paused: nothing of it is handled until it is resumed");
                }
                (Known::This(Some(_)), _) => tracing::info!(subscription = %self.name, "resumed"),
                _ => {}
            }
            *known = found;
            true
        });
    }

    /// The pause that is known of.
    #[must_use]
    pub fn now(&self) -> Option<Pause> {
        match &*self.known.borrow() {
            Known::This(pause) => pause.clone(),
            Known::Nothing => None,
        }
    }

    /// Waits until it is known that it is not paused.
    pub async fn resumed(&self) {
        // The sender lives as long as this, so neither wait can fail.
        let _ = self.known.subscribe().wait_for(|known| *known == Known::This(None)).await;
    }

    /// Waits until it is paused.
    pub async fn begun(&self) {
        let _ = self.known.subscribe().wait_for(|known| matches!(known, Known::This(Some(_)))).await;
    }
}

/// The subscriptions of a process that can be paused, and the record of it.
#[derive(Clone)]
pub struct Watch {
    /// None: this process uses no record in which they are kept.
    pauses: Option<Arc<dyn Pauses>>,
    names: Vec<SubscriptionName>,
    known: Vec<Paused>,
}

impl Watch {
    /// Nothing to look at yet.
    #[must_use]
    pub fn new(pauses: Arc<dyn Pauses>) -> Self {
        Self { pauses: Some(pauses), names: Vec::new(), known: Vec::new() }
    }

    /// Of a process that uses no record in which pauses are kept.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { pauses: None, names: Vec::new(), known: Vec::new() }
    }

    /// What is known of a subscription; one that is not looked at is never paused.
    #[must_use]
    pub fn of(&self, name: &SubscriptionName) -> Paused {
        let known = self.known.iter().find(|known| known.name == *name);
        known.cloned().unwrap_or_else(|| Paused::never(name.clone()))
    }

    /// Has one more subscription looked at.
    pub fn over(&mut self, name: &SubscriptionName) -> Paused {
        let paused = Paused::unknown(name.clone());
        self.names.push(name.clone());
        self.known.push(paused.clone());
        paused
    }

    /// Looks once, in one round trip.
    ///
    /// # Errors
    /// [`PortError`] when the record is away: then everything stays as it was.
    pub async fn look(&self) -> Result<(), PortError> {
        let found = self.pauses()?.get(&self.names).await?;
        for (known, pause) in self.known.iter().zip(found) {
            known.found(pause);
        }
        Ok(())
    }

    /// Looks for ever, every `pause` and at least every [`LOOK_MAX`]. `shown` is ready from the first look on that found something out: until
    /// then nothing is consumed, and later what is known stands.
    pub async fn run(self, pause: Duration, shown: Dependency) {
        let (mut known, mut away) = (false, false);
        loop {
            match self.look().await {
                Ok(()) => {
                    shown.ready();
                    (known, away) = (true, false);
                }
                Err(error) => {
                    let error = with_sources(&error);
                    if !known {
                        shown.unready(format!("nobody knows what is paused: {error}"));
                    } else if !away {
                        tracing::warn!(error, "pauses cannot be looked at: what is known of them stands");
                    }
                    away = true;
                }
            }
            tokio::time::sleep(pause.min(LOOK_MAX)).await;
        }
    }

    /// Pauses a subscription for every process, and here at once.
    ///
    /// # Errors
    /// [`PortError`] when that cannot be written down.
    pub async fn pause(&self, name: &SubscriptionName, pause: &Pause) -> Result<(), PortError> {
        self.pauses()?.set(name, pause).await?;
        self.know(name, Some(pause));
        Ok(())
    }

    /// Resumes a subscription for every process, and here at once; answers whether it was paused.
    ///
    /// # Errors
    /// [`PortError`] when that cannot be written down.
    pub async fn resume(&self, name: &SubscriptionName) -> Result<bool, PortError> {
        let was = self.pauses()?.clear(name).await?;
        self.know(name, None);
        Ok(was)
    }

    /// Whether this subscription's pauses are looked at.
    #[must_use]
    pub fn is_over(&self, name: &SubscriptionName) -> bool {
        self.names.contains(name)
    }

    fn pauses(&self) -> Result<&Arc<dyn Pauses>, PortError> {
        self.pauses.as_ref().ok_or_else(|| PortError::Refused("the record of pauses", "this process uses none".into()))
    }

    fn know(&self, name: &SubscriptionName, pause: Option<&Pause>) {
        if let Some(known) = self.known.iter().find(|known| known.name == *name) {
            known.found(pause.cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_boot::Health;
    use countersign_delivery::Timestamp;
    use countersign_testkit::build::subscription;
    use countersign_testkit::pauses::MemoryPauses;
    use futures::FutureExt as _;

    fn pause() -> Pause {
        Pause { reason: "a bad roll-out".into(), by: "ada".into(), at: Timestamp::from_millis(5) }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_handled_before_the_record_was_looked_at() {
        let pauses = MemoryPauses::default();
        let mut watch = Watch::new(Arc::new(pauses.clone()));
        let known = watch.over(&subscription("inventory"));
        pauses.go_down();
        assert!(watch.look().await.is_err());
        assert!(known.resumed().now_or_never().is_none());
        pauses.come_up();
        watch.look().await.unwrap();
        assert!(known.resumed().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn another_process_hears_of_a_pause_within_a_second_and_keeps_it_while_the_record_is_away() {
        let pauses = MemoryPauses::default();
        let (mut here, mut there) = (Watch::new(Arc::new(pauses.clone())), Watch::new(Arc::new(pauses.clone())));
        let (name, health) = (subscription("inventory"), Health::default());
        health.running();
        let (this, that) = (here.over(&name), there.over(&name));
        let looking = there.run(Duration::from_mins(1), health.dependency("pauses"));
        let orders = async {
            that.resumed().await;
            assert!(health.readiness().ready, "somebody has looked");
            here.pause(&name, &pause()).await.unwrap();
            assert_eq!(this.now(), Some(pause()), "here it is known at once");
            tokio::time::timeout(LOOK_MAX * 2, that.begun()).await.expect("within a second");
            pauses.go_down();
            tokio::time::sleep(LOOK_MAX * 5).await;
            assert_eq!((that.now(), health.readiness().ready), (Some(pause()), true), "what is known stands");
            pauses.come_up();
            assert!(here.resume(&name).await.unwrap());
            tokio::time::timeout(LOOK_MAX * 2, that.resumed()).await.expect("within a second");
            assert!(!here.resume(&name).await.unwrap());
        };
        tokio::select! {
            () = looking => unreachable!("it looks for ever"),
            () = orders => {}
        }
    }
}
