//! Names of things: messages, upstreams and their incarnations, subscriptions.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::time::Timestamp;

/// Why a text or a number of bytes is not the id it should be. The message says what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidId {
    what: &'static str,
    value: String,
    rule: &'static str,
}

impl InvalidId {
    pub(crate) fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        let value = value.chars().take(80).collect();
        Self { what, value, rule }
    }
}

/// A message's identity: a UUIDv7 that upstream minted when it accepted the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Uuid", into = "Uuid")]
pub struct MessageId(Uuid);

impl MessageId {
    /// Wraps a UUID; errors unless it is of version 7.
    ///
    /// # Errors
    /// [`InvalidId`] for every other version: such an id was not minted by an upstream.
    pub fn new(uuid: Uuid) -> Result<Self, InvalidId> {
        if uuid.get_version_num() == 7 {
            Ok(Self(uuid))
        } else {
            Err(InvalidId::new("message id", &uuid.to_string(), "a message id is a UUID of version 7, minted by upstream"))
        }
    }

    /// The id of what is minted under a place: 48 bits of milliseconds, 34 that tell the incarnation ([`IncarnationId::tag`]) and 40 of the
    /// seq, which are the last ten hexadecimal digits. It grows with its seq if the time does not go back, and who has it knows the place.
    #[must_use]
    pub fn at(incarnation: IncarnationId, seq: Seq, minted_at: Timestamp) -> Self {
        const VERSION_AND_VARIANT: u128 = (7 << 76) | (2 << 62);
        let millis = u128::try_from(minted_at.as_millis()).unwrap_or(0) & MILLIS_MASK;
        let (tag, seq) = (u128::from(incarnation.tag()), u128::from(seq.0 & SEQ_MASK));
        let (high, low) = (tag >> TAG_LOW_BITS, tag & ((1 << TAG_LOW_BITS) - 1));
        Self(Uuid::from_u128(millis << MILLIS_SHIFT | VERSION_AND_VARIANT | high << 64 | low << SEQ_BITS | seq))
    }

    /// The tag of the incarnation and the seq under which it was minted by [`Self::at`]; of any other id, numbers that mean nothing. So a row that
    /// is found by them is only the right one if it has this id.
    #[must_use]
    pub fn place(self) -> (u64, Seq) {
        let (upper, lower) = self.0.as_u64_pair();
        let (high, low) = (upper & 0xfff, lower << 2 >> (2 + SEQ_BITS));
        (high << TAG_LOW_BITS | low, Seq(lower & SEQ_MASK))
    }

    /// Reads the hyphenated or simple text form.
    ///
    /// # Errors
    /// [`InvalidId`] when the text is not a UUIDv7.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        Uuid::try_parse(text)
            .map_err(|_| InvalidId::new("message id", text, "a message id is a UUID of version 7, minted by upstream"))
            .and_then(Self::new)
    }

    /// Reads 16 bytes, big endian.
    ///
    /// # Errors
    /// [`InvalidId`] when there are not 16 bytes, or they are not a UUIDv7.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
        Uuid::from_slice(bytes)
            .map_err(|_| InvalidId::new("message id", &format!("{} bytes", bytes.len()), "a message id has 16 bytes"))
            .and_then(Self::new)
    }

    /// The UUID itself.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// When it was minted, by upstream's clock.
    #[must_use]
    pub fn minted_at(self) -> Timestamp {
        minted_at(self.0)
    }
}

impl TryFrom<Uuid> for MessageId {
    type Error = InvalidId;

    fn try_from(uuid: Uuid) -> Result<Self, Self::Error> {
        Self::new(uuid)
    }
}

impl From<MessageId> for Uuid {
    fn from(id: MessageId) -> Self {
        id.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Version 7 begins with 48 bits of milliseconds.
const MILLIS_SHIFT: u32 = 80;
const MILLIS_MASK: u128 = (1 << 48) - 1;
/// Version 7 leaves 12 bits before the variant and 62 behind it; of these the last ones are the seq.
const SEQ_BITS: u32 = 40;
const SEQ_MASK: u64 = (1 << SEQ_BITS) - 1;
const TAG_LOW_BITS: u32 = 62 - SEQ_BITS;

/// When a UUID was minted.
fn minted_at(uuid: Uuid) -> Timestamp {
    Timestamp::from_millis(i64::try_from(uuid.as_u128() >> MILLIS_SHIFT).unwrap_or(i64::MAX))
}

/// One run of one upstream process. Two runs of the same process are two incarnations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncarnationId(pub Uuid);

impl IncarnationId {
    /// When it was named, by its owner's clock: before any message was minted under it.
    #[must_use]
    pub fn minted_at(self) -> Timestamp {
        minted_at(self.0)
    }

    /// What the ids of its messages say of it: its last 34 bits, which are random. Two incarnations may have the same one; two ids are the same only
    /// if their seqs and their milliseconds are as well.
    #[must_use]
    pub fn tag(self) -> u64 {
        const TAG_MASK: u64 = (1 << (12 + TAG_LOW_BITS)) - 1;
        self.0.as_u64_pair().1 & TAG_MASK
    }
}

impl fmt::Display for IncarnationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An incarnation's own counter of messages; the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The seq of an incarnation's first message, and the watermark of one that has sent nothing.
    pub const FIRST: Self = Self(1);

    /// The following seq.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 200 bytes of ASCII letters, digits, `.`, `-`, `_`: it becomes part of queue names and Redis keys.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`InvalidId`] when it is empty, too long, or has another character.
            pub fn new(name: &str) -> Result<Self, InvalidId> {
                const RULE: &str = "1 to 200 of the characters A-Z a-z 0-9 . - _";
                let fits = (1..=200).contains(&name.len());
                if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
                    Ok(Self(name.into()))
                } else {
                    Err(InvalidId::new($what, name, RULE))
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// A downstream consumer group: its work queue has this name.
    SubscriptionName,
    "subscription name"
);
name_type!(
    /// A producing service, the same for all of its replicas; travels as AMQP `app_id`.
    UpstreamName,
    "upstream name"
);

/// The caller's own key for "this business event": sending twice with one key stores one message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// Longest key, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks and wraps a key.
    ///
    /// # Errors
    /// [`InvalidId`] when it is empty, longer than [`Self::MAX_BYTES`], or has a control character.
    pub fn new(key: &str) -> Result<Self, InvalidId> {
        let fits = !key.is_empty() && key.len() <= Self::MAX_BYTES;
        if fits && !key.chars().any(char::is_control) {
            Ok(Self(key.into()))
        } else {
            Err(InvalidId::new("idempotency key", key, "1 to 255 bytes without control characters"))
        }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The one routing algorithm over ids, for databases that are split: shard `0..shards`.
///
/// Uses the last eight bytes, which end with the seq: an incarnation's messages go round. `shards` of 0 counts as 1.
#[must_use]
pub fn shard_of(id: MessageId, shards: u32) -> u32 {
    let (_, last) = id.uuid().as_u64_pair();
    u32::try_from(last % u64::from(shards.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_says_its_time_and_its_place(name: u128, seq in 0..=SEQ_MASK, millis in 0..1_i64 << 48) {
            let incarnation = IncarnationId(Uuid::from_u128(name));
            let id = MessageId::at(incarnation, Seq(seq), Timestamp::from_millis(millis));
            prop_assert_eq!(MessageId::new(id.uuid()), Ok(id), "it is of version 7");
            prop_assert_eq!(id.uuid().get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(id.minted_at().as_millis(), millis);
            prop_assert_eq!(id.place(), (incarnation.tag(), Seq(seq)));
        }

        #[test]
        fn ids_of_one_incarnation_are_in_the_order_of_their_seqs(seqs in (1..SEQ_MASK, 1..1_000_u64), millis in (0..1_i64 << 47, 0..3_i64)) {
            let id = |seq: u64, millis| MessageId::at(IncarnationId(Uuid::from_u128(u128::MAX)), Seq(seq.min(SEQ_MASK)), Timestamp::from_millis(millis));
            prop_assert!(id(seqs.0, millis.0) < id(seqs.0 + seqs.1, millis.0 + millis.1));
        }
    }

    #[test]
    fn people_can_read_the_seq_in_the_last_ten_digits() {
        let id = MessageId::at(IncarnationId(Uuid::from_u128(0)), Seq(0x1_2345), Timestamp::from_millis(0x0189_0000_0000));
        assert_eq!(id.to_string(), "01890000-0000-7000-8000-000000012345");
    }
}
