//! The four atomic steps, each one script over the two keys of one message and subscription; and the question since when the record goes back.

use redis::Script;

/// The steps as scripts; sent by their hash, and by their text when Redis does not know them (yet, or any more).
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) claim: Step,
    pub(crate) renew: Step,
    pub(crate) complete: Step,
    pub(crate) release: Step,
    /// Not a step: asked along with every batch of claims.
    pub(crate) since: Step,
}

/// One script with its text.
#[derive(Debug)]
pub(crate) struct Step {
    text: &'static str,
    hash: String,
}

impl Step {
    fn new(text: &'static str) -> Self {
        Self { text, hash: Script::new(text).get_hash().to_owned() }
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
            claim: Step::new(include_str!("scripts/claim.lua")),
            renew: Step::new(include_str!("scripts/renew.lua")),
            complete: Step::new(include_str!("scripts/complete.lua")),
            release: Step::new(include_str!("scripts/release.lua")),
            since: Step::new(include_str!("scripts/since.lua")),
        }
    }
}
