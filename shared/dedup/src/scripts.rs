//! The four atomic steps, each one script over the keys of one message and subscription; the question since when the record goes back; and a probe of what they need.

use redis::Script;

use crate::link::Call;

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
            claim: Step::new(Call::Claim, include_str!("scripts/claim.lua")),
            renew: Step::new(Call::Renew, include_str!("scripts/renew.lua")),
            complete: Step::new(Call::Complete, include_str!("scripts/complete.lua")),
            release: Step::new(Call::Release, include_str!("scripts/release.lua")),
            since: Step::new(Call::Other, include_str!("scripts/since.lua")),
            probe: Step::new(Call::Other, include_str!("scripts/probe.lua")),
        }
    }
}
