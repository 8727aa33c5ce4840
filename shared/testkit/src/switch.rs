//! The main switch of a fake: while it is off, every call is answered as an adapter does whose server is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_delivery::ports::PortError;

/// Up, until it is switched off; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch(Arc<AtomicBool>);

impl Switch {
    pub(crate) fn set_down(&self, down: bool) {
        self.0.store(down, Ordering::Relaxed);
    }

    pub(crate) fn check(&self, what: &'static str) -> Result<(), PortError> {
        if self.0.load(Ordering::Relaxed) { Err(unavailable(what)) } else { Ok(()) }
    }
}

/// The answer of an adapter whose server is away.
pub(crate) fn unavailable(what: &'static str) -> PortError {
    PortError::Unavailable(what, "switched off by the test".into())
}

/// The answer that got lost.
pub(crate) fn lost(what: &'static str) -> PortError {
    PortError::OutcomeUnknown(what, "the test lost the answer".into())
}

/// What an adapter refuses for good.
pub(crate) fn refused(what: &'static str, why: String) -> PortError {
    PortError::Refused(what, why.into())
}
