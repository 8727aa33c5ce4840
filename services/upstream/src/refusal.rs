//! Why a message was not accepted.

use countersign_delivery::MessageId;

/// A message that was not accepted; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It can never be accepted as it is.
    #[error("{0}")]
    Invalid(String),
    /// A body or a batch is over its limit: never, unless it is made smaller. The text has both sizes.
    #[error("{0}")]
    TooLarge(String),
    /// The idempotency key is known under another fingerprint.
    #[error(
        "the idempotency key {key:?} belongs to message {id}, which has another fingerprint: use a key of its own for each event"
    )]
    Conflict {
        /// The key.
        key: String,
        /// The message that has it.
        id: MessageId,
    },
    /// Nobody would get it.
    #[error(
        "no subscription gets exchange {exchange:?} with routing key {routing_key:?}: bind one in the topology file, or correct the two"
    )]
    NoSubscription {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// Too many messages wait for the broker, or for the database.
    #[error("{what}: send again in {retry_ms} ms")]
    Exhausted {
        /// Which bound is reached.
        what: String,
        /// When it is worth trying again, milliseconds.
        retry_ms: u64,
    },
    /// Mode `confirmed`: no queue took it.
    #[error(
        "the broker returned it ({reason}), because no queue is bound for exchange {exchange:?} with routing key {routing_key:?}; nothing is \
         stored: bind one (countersign topology apply), then send again"
    )]
    Returned {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
        /// The broker's words.
        reason: String,
    },
    /// Mode `confirmed`: whether the broker has it is not known.
    #[error("{0}: it may have been published, nothing is stored; send again if a second one does no harm")]
    Unconfirmed(String),
    /// The broker refused the last message like it, and its route says `on_full = "reject"`. Nothing is stored.
    #[error(
        "the broker refused the last message for {subscriptions}: the queue is full, or cannot take messages now; this one was not \
         stored: send it again in {retry_ms} ms"
    )]
    Full {
        /// Who would have to sign, each with its `max_length`.
        subscriptions: String,
        /// When it is worth trying again, milliseconds.
        retry_ms: u64,
    },
    /// Nothing was promised; the same message with the same key may be sent again.
    #[error("{0}; nothing was promised: send again with the same idempotency key")]
    Unavailable(String),
    /// The database refuses for a reason that will not go away by itself.
    #[error("the database refuses: {0}")]
    Broken(String),
}

impl Refusal {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Exhausted { .. } | Self::Full { .. } | Self::Unavailable(_) | Self::Unconfirmed(_))
    }

    /// When to come back, milliseconds, if that is known.
    #[must_use]
    pub const fn retry_ms(&self) -> Option<u64> {
        match self {
            Self::Exhausted { retry_ms, .. } | Self::Full { retry_ms, .. } => Some(*retry_ms),
            _ => None,
        }
    }

    /// Every word of [`Self::word`].
    pub(crate) const WORDS: [&str; 10] = [
        "invalid",
        "too_large",
        "conflict",
        "no_subscription",
        "exhausted",
        "full",
        "returned",
        "unconfirmed",
        "unavailable",
        "broken",
    ];

    /// The one word for it, for the label of a metric.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Invalid(_) => Self::WORDS[0],
            Self::TooLarge(_) => Self::WORDS[1],
            Self::Conflict { .. } => Self::WORDS[2],
            Self::NoSubscription { .. } => Self::WORDS[3],
            Self::Exhausted { .. } => Self::WORDS[4],
            Self::Full { .. } => Self::WORDS[5],
            Self::Returned { .. } => Self::WORDS[6],
            Self::Unconfirmed(_) => Self::WORDS[7],
            Self::Unavailable(_) => Self::WORDS[8],
            Self::Broken(_) => Self::WORDS[9],
        }
    }
}
