//! The fingerprint: what makes two messages with one id the same message, or a conflict.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::InvalidId;

/// The caller's business rule as bytes (1 to 64), or by default a 128-bit hash of type, content type and body.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(Vec<u8>);

impl Fingerprint {
    /// Longest fingerprint, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Takes a caller's own fingerprint.
    ///
    /// # Errors
    /// [`InvalidId`] when it is empty or longer than [`Self::MAX_BYTES`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidId> {
        if (1..=Self::MAX_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(InvalidId::new("fingerprint", &format!("{} bytes", bytes.len()), "a fingerprint has 1 to 64 bytes"))
        }
    }

    /// The default: the first 128 bits of BLAKE3 over type, content type and body, each led by its length.
    #[must_use]
    pub fn of(kind: &str, content_type: &str, body: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [kind.as_bytes(), content_type.as_bytes(), body] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().as_bytes()[..16].to_vec())
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the lower- or upper-case hexadecimal form that headers, keys and JSON carry.
    ///
    /// # Errors
    /// [`InvalidId`] when the text is not hexadecimal or has the wrong length.
    pub fn from_hex(text: &str) -> Result<Self, InvalidId> {
        let wrong = |_| InvalidId::new("fingerprint", text, "hexadecimal text of 1 to 64 bytes");
        Self::new(hex::decode(text).map_err(wrong)?)
    }

    /// Lower-case hexadecimal text.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.to_hex())
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_hex()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_hex(&text)
    }
}
