//! Publishing with an outcome per message, and consuming with settlement by handle.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::PortError;

/// A header value that survives a round trip through the broker.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderValue {
    /// UTF-8 text.
    Text(String),
    /// Any integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A floating-point number.
    Double(f64),
    /// Bytes that are not UTF-8.
    Bytes(Vec<u8>),
}

impl HeaderValue {
    /// The text, if it is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is an integer.
    #[must_use]
    pub const fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }
}

/// The AMQP properties that this system reads or writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// AMQP `message_id`. Returns are matched by it together with exchange and routing key, so every publication has one; of two that share
    /// all three, the second waits for the first.
    pub message_id: Option<String>,
    /// AMQP `app_id`.
    pub app_id: Option<String>,
    /// AMQP `type`.
    pub kind: Option<String>,
    /// AMQP `content_type`.
    pub content_type: Option<String>,
    /// AMQP `timestamp`, seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// AMQP `expiration`, milliseconds: in a queue with a TTL the shorter of the two counts, and only at the head. Gone once it has been
    /// dead-lettered.
    pub expiration_ms: Option<u64>,
    /// AMQP headers; nested tables and arrays are not carried.
    pub headers: BTreeMap<String, HeaderValue>,
}

/// One persistent message to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The exchange; empty is the default exchange, which routes by queue name.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Its properties.
    pub properties: Properties,
    /// Its body.
    pub body: Bytes,
}

/// What became of a publication. Only `Confirmed` means that the broker has it in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Persisted in every queue it was routed to.
    Confirmed,
    /// Refused (queue full, or the broker's trouble).
    Nacked,
    /// No queue took it. A return counts as failure although a confirm follows it.
    Returned {
        /// The broker's words.
        reason: String,
    },
    /// No answer in time, or the connection went: it may be in a queue or not.
    Unknown,
}

/// Publishes persistent, mandatory messages and awaits each one's outcome.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Publishes in order; answers in the same order. Never fails as a whole, and always answers within the confirm deadline.
    ///
    /// Waits while too many publications are in flight.
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Published>;

    /// Whether there is an open channel that the broker does not block.
    fn is_up(&self) -> bool;

    /// Returns once [`Self::is_up`] is true.
    async fn up(&self);
}

/// Names one delivery for settlement. Only valid with the consumer that gave it, until its connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    /// Which connection's.
    pub generation: u64,
    /// The AMQP delivery tag.
    pub tag: u64,
}

/// One message handed to a consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// For its settlement.
    pub handle: Handle,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Whether the broker has handed it out before.
    pub redelivered: bool,
    /// Its properties.
    pub properties: Properties,
    /// Its body.
    pub body: Bytes,
}

/// AMQP settlement, consumer to broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// Done with it.
    Ack,
    /// Put it back at once.
    Requeue,
    /// Send it where the queue dead-letters to.
    DeadLetter,
}

/// A running consumer of one queue. Dropping it cancels it; what was not settled goes back to the queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for at least one message, then takes what is ready, `max` at most. Survives broker restarts: it consumes again as soon as
    /// it can, under a new generation.
    async fn next(&mut self, max: usize) -> Vec<Delivered>;

    /// Settles deliveries of this consumer; cheap to clone and usable while [`Self::next`] waits.
    fn settler(&self) -> Arc<dyn Settler>;
}

/// Settles deliveries.
#[async_trait]
pub trait Settler: Send + Sync {
    /// Settles; handles of an earlier generation are passed over, since the broker has put those messages back already.
    async fn settle(&self, handles: &[Handle], settlement: Settlement);
}

/// Opens consumers.
#[async_trait]
pub trait Consumers: Send + Sync {
    /// Consumes a queue with at most `prefetch` unsettled messages. The queue need not be there yet.
    ///
    /// # Errors
    /// [`PortError::Refused`] when the arguments can never work.
    async fn consume(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Consumer>, PortError>;

    /// How many messages of a queue are ready, right now: not those that consumers hold.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] while there is no connection, [`PortError::Refused`] when there is no such queue.
    async fn ready(&self, queue: &str) -> Result<u32, PortError>;
}
