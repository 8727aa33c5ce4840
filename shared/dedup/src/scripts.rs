//! The four atomic steps, each one script over the keys of one message and subscription; the question since when the record goes back; and a probe of what they need.

use redis::Script;

use crate::link::Call;

/// A script: the usual case, if it has one that is cheaper; how a record is read and written; all cases.
macro_rules! step {
    ($call:expr, $($file:literal),+) => {
        Step::new($call, concat!($(include_str!($file)),+))
    };
}

/// The steps as scripts; sent by their hash, and by their text when Redis does not know them (yet, or any more).
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) claim: Step,
    pub(crate) renew: Step,
    pub(crate) complete: Step,
    pub(crate) release: Step,
    /// Not a step: asked along with every batch of claims.
    pub(crate) since: Step,
    pub(crate) probe: Step,
}

/// One script with its text.
#[derive(Debug)]
pub(crate) struct Step {
    call: Call,
    text: &'static str,
    hash: String,
}

impl Step {
    fn new(call: Call, text: &'static str) -> Self {
        Self { call, text, hash: Script::new(text).get_hash().to_owned() }
    }

    /// What its round trips are counted as.
    pub(crate) const fn call(&self) -> Call {
        self.call
    }

    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    pub(crate) const fn text(&self) -> &'static str {
        self.text
    }
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            claim: step!(Call::Claim, "scripts/usual/claim.lua", "scripts/record.lua", "scripts/claim.lua"),
            renew: step!(Call::Renew, "scripts/renew.lua"),
            complete: step!(Call::Complete, "scripts/usual/complete.lua", "scripts/record.lua", "scripts/complete.lua"),
            release: step!(Call::Release, "scripts/record.lua", "scripts/release.lua"),
            since: step!(Call::Other, "scripts/since.lua"),
            probe: step!(Call::Other, "scripts/record.lua", "scripts/probe.lua"),
        }
    }
}
