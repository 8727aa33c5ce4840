//! The four atomic steps, each one script over the keys of a batch of one subscription's messages; the question since when the record goes back; and a probe of what they need.

use redis::Script;

use crate::link::Call;

/// A step's script, which takes a batch: how a record is read and written; the step for one claim; the usual case, if one is cheaper; the batch.
macro_rules! step {
    ($call:expr, $step:literal, $usual:literal) => {
        Step::new(
            $call,
            concat!(
                include_str!("scripts/record.lua"),
                "local function step(KEYS, ARGV)\n",
                include_str!($step),
                "end\n",
                include_str!($usual),
                include_str!("scripts/batch.lua")
            ),
        )
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
            claim: step!(Call::Claim, "scripts/claim.lua", "scripts/usual/claim.lua"),
            renew: step!(Call::Renew, "scripts/renew.lua", "scripts/usual/none.lua"),
            complete: step!(Call::Complete, "scripts/complete.lua", "scripts/usual/complete.lua"),
            release: step!(Call::Release, "scripts/release.lua", "scripts/usual/none.lua"),
            since: Step::new(Call::Other, include_str!("scripts/since.lua")),
            probe: Step::new(Call::Other, concat!(include_str!("scripts/record.lua"), include_str!("scripts/probe.lua"))),
        }
    }
}
