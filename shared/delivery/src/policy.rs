//! The figures by which callback judges. Every default is the scheme's own.

use serde::{Deserialize, Serialize};

/// How long to wait, how often to resend, when a probe is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Resends per epoch before a human takes over.
    pub max_resends: u32,
    /// How long one order to resend is somebody's work before another callback may repeat it, milliseconds. Must be longer than
    /// the deadline of the resend call.
    pub resend_lease_ms: u64,
    /// How long after the answer to one probe the next one counts as the second witness, milliseconds. Must be at least
    /// downstream's `progress_after` plus the time in which the broker notices a dead consumer.
    pub probe_grace_ms: u64,
    /// The least time between two probes of one lane, milliseconds.
    pub probe_spacing_ms: u64,
    /// When an unanswered probe is replaced for the first time, milliseconds; doubles from then on.
    pub probe_replace_ms: u64,
    /// Where that doubling ends, milliseconds.
    pub probe_replace_max_ms: u64,
    /// After how much waiting an unsigned message counts as lost for a subscription that signs no probes, milliseconds.
    pub unprobed_timeout_ms: u64,
    /// How long a delivery that is not settled may be silent after it should have moved, before it is checked anew, milliseconds. Must be
    /// above the longest check delay of the topology (900 s by default), or every long wait would add a check.
    pub overdue_ms: u64,
    /// How often upstream may answer "unknown id" before the delivery is parked.
    pub max_unknown_answers: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_resends: 3,
            resend_lease_ms: 30_000,
            probe_grace_ms: 90_000,
            probe_spacing_ms: 1_000,
            probe_replace_ms: 30_000,
            probe_replace_max_ms: 900_000,
            unprobed_timeout_ms: 900_000,
            overdue_ms: 1_200_000,
            max_unknown_answers: 2,
        }
    }
}

impl Policy {
    /// What is wrong with these figures, each with its remedy; empty when they are sound.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let positive = [
            ("resend_lease_ms", self.resend_lease_ms),
            ("probe_grace_ms", self.probe_grace_ms),
            ("probe_replace_ms", self.probe_replace_ms),
            ("unprobed_timeout_ms", self.unprobed_timeout_ms),
            ("overdue_ms", self.overdue_ms),
        ];
        for (name, value) in positive {
            if value == 0 {
                problems.push(format!("policy.{name} is 0: set it to at least 1 ms"));
            }
        }
        if self.probe_replace_max_ms < self.probe_replace_ms {
            problems.push("policy.probe_replace_max_ms is below probe_replace_ms: raise it".into());
        }
        if self.max_unknown_answers < 2 {
            problems.push("policy.max_unknown_answers is below 2: one answer may come from a replica that lags behind".into());
        }
        problems
    }
}
