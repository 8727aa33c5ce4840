//! Pauses: which subscriptions an operator has stopped, for every process that handles them.

use async_trait::async_trait;

use super::PortError;
use crate::id::SubscriptionName;
use crate::time::Timestamp;

/// Why nothing of a subscription is handled, by an operator's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Why, for a human.
    pub reason: String,
    /// Who ordered it.
    pub by: String,
    /// When, by the clock of the process that wrote it down.
    pub at: Timestamp,
}

/// The record of pauses that all processes share. It outlives every one of them, and nothing in it ends by itself.
#[async_trait]
pub trait Pauses: Send + Sync {
    /// Pauses a subscription. One that is paused already has the latest order's words from then on.
    ///
    /// # Errors
    /// [`PortError`] when it cannot be written; the same call may be repeated.
    async fn set(&self, subscription: &SubscriptionName, pause: &Pause) -> Result<(), PortError>;

    /// Ends a pause; answers whether there was one.
    ///
    /// # Errors
    /// [`PortError`] when it cannot be written; the same call may be repeated.
    async fn clear(&self, subscription: &SubscriptionName) -> Result<bool, PortError>;

    /// Reads the pauses of several subscriptions in one round trip, in order.
    ///
    /// # Errors
    /// [`PortError`] when they cannot be read: then nothing is known about any of them.
    async fn get(&self, subscriptions: &[SubscriptionName]) -> Result<Vec<Option<Pause>>, PortError>;
}
