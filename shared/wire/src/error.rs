use countersign_delivery::id::InvalidId;

/// Why bytes or headers are not what they should be. Never transient: the same bytes fail again.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not protobuf or JSON of the expected form.
    #[error("the body cannot be decoded: {0}")]
    Malformed(String),
    /// Written by a version this build does not know.
    #[error("wire version {0} is not known to this build, which reads version {known}", known = crate::names::VERSION)]
    UnknownVersion(i64),
    /// A property or header is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An id, name or fingerprint is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidId),
    /// An index points outside of its dictionary, or an enum has no such value.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

impl WireError {
    /// Whether the same bytes may be readable later. Never.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        false
    }
}
