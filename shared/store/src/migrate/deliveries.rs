//! MSG DB's tables.
//!
//! `signed` and `command` are codes (see `deliveries/row.rs`); `state` is the word that sums both up, for people and filters. An
//! attempt is one number: the epoch in the upper 32 bits, the attempt within it in the lower ones. Times are milliseconds since
//! the epoch of Unix. Numbers stand before texts, so that PostgreSQL pads nothing between them.

use super::Step;

pub(super) const STEPS: &[Step] = &[M001_DELIVERIES, M002_EFFECT_EPOCH, M006_RECONCILIATION];

/// NULL for almost all, which costs nothing.
const M002_EFFECT_EPOCH: Step =
    Step { name: "m002_effect_epoch", statements: &["ALTER TABLE countersign_delivery ADD COLUMN effect_epoch {bigint}"] };

const M001_DELIVERIES: Step = Step {
    name: "m001_deliveries",
    statements: &[
        "CREATE TABLE countersign_delivery (
            message_id {uuid} NOT NULL,
            sent_at {bigint} NOT NULL,
            signed_attempt {bigint},
            signed_delay_ms {bigint},
            command_attempt {bigint},
            command_lease_until {bigint},
            command_unknown {bigint},
            live_until {bigint},
            due_at {bigint},
            signed {smallint} NOT NULL,
            command {smallint} NOT NULL,
            subscription {name} NOT NULL,
            state {name} NOT NULL,
            upstream {name} NOT NULL,
            fingerprint {bytes} NOT NULL,
            signed_reason {name},
            signed_detail {name},
            command_reason {name},
            PRIMARY KEY (message_id, subscription)) {clustered}",
        "CREATE INDEX countersign_delivery_due ON countersign_delivery (due_at) WHERE due_at IS NOT NULL",
        "CREATE INDEX countersign_delivery_open ON countersign_delivery (state, message_id, subscription) WHERE state <> 'done'",
        "CREATE TABLE countersign_delivery_history (
            line {serial},
            message_id {uuid} NOT NULL,
            subscription {name} NOT NULL,
            at {bigint} NOT NULL,
            attempt {bigint} NOT NULL,
            what {name} NOT NULL,
            detail {name} NOT NULL)",
        "CREATE INDEX countersign_delivery_history_of ON countersign_delivery_history (message_id, subscription, line)",
        "CREATE TABLE countersign_probe (
            subscription {name} NOT NULL,
            retry_delay_ms {bigint} NOT NULL,
            number {bigint} NOT NULL,
            floor {bigint} NOT NULL,
            stored_at {bigint} NOT NULL,
            answered_at {bigint},
            PRIMARY KEY (subscription, retry_delay_ms, number)) {clustered}",
    ],
};

/// One row an upstream: `due_at` is the end of a turn's lease or of the pause after it, `certificate` is JSON.
const M006_RECONCILIATION: Step = Step {
    name: "m006_reconciliation",
    statements: &["CREATE TABLE countersign_upstream (
            due_at {bigint} NOT NULL,
            certified_until {bigint},
            upstream {name} NOT NULL PRIMARY KEY,
            certificate {name}) {clustered}"],
};
