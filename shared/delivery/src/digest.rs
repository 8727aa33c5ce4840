//! An order-free sum over messages: two sides have the same one if, and practically only if, they have the same messages.

use crate::fingerprint::Fingerprint;
use crate::id::MessageId;

/// What sets this hash apart from every other use of BLAKE3.
const CONTEXT: &str = "countersign 2026-11 digest of a minute";

/// How many messages, and the wrapping sum of a 128-bit hash of each. Not XOR, in which a message that is counted twice goes unnoticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    count: u64,
    hash: u128,
}

impl Digest {
    /// From what travels; the hash is big endian.
    #[must_use]
    pub const fn from_parts(count: u64, hash: [u8; 16]) -> Self {
        Self { count, hash: u128::from_be_bytes(hash) }
    }

    /// Adds one message.
    pub fn add(&mut self, id: MessageId, fingerprint: &Fingerprint) {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(id.uuid().as_bytes());
        hasher.update(fingerprint.as_bytes());
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        self.merge(Self::from_parts(1, hash));
    }

    /// Adds what another one has.
    pub const fn merge(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.hash = self.hash.wrapping_add(other.hash);
    }

    /// How many messages.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The hash as it travels, big endian.
    #[must_use]
    pub const fn hash(&self) -> [u8; 16] {
        self.hash.to_be_bytes()
    }
}
