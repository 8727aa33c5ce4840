//! MSG DB's tables.
//!
//! `signed` and `command` are codes (see `deliveries/row.rs`); `state` is the word that sums both up, for people and filters. An
//! attempt is one number: the epoch in the upper 32 bits, the attempt within it in the lower ones; what is done without one was done at the
//! first attempt. Times are milliseconds since
//! the epoch of Unix. Numbers stand before texts, so that PostgreSQL pads nothing between them.

use super::Step;

pub(super) const STEPS: &[Step] =
    &[M001_DELIVERIES, M002_EFFECT_EPOCH, M003_AUDIT, M004_DEAD_LETTERS, M005_EVENTS, M006_RECONCILIATION, M007_TOLD_ACTS];

/// Rows of callback itself have no `act_id`. A callback that knows no acts goes on beside it: what it writes is callback's.
const M007_TOLD_ACTS: Step = Step {
    name: "m007_told_acts",
    statements: &[
        "ALTER TABLE countersign_audit ADD COLUMN act_id {uuid}",
        "ALTER TABLE countersign_audit ADD COLUMN service {name} NOT NULL DEFAULT 'callback'",
        "ALTER TABLE countersign_audit ADD COLUMN service_name {name} NOT NULL DEFAULT ''",
        "CREATE UNIQUE INDEX countersign_audit_act_id ON countersign_audit (act_id)",
    ],
};

/// `state`: 0 nobody acted on it, 1 redriven, 2 discarded. An absent subscription, the quarantine's, is an empty text; of what names no message
/// `message_uuid` is all zeros. Bodies come last: a list does not read them.
const M004_DEAD_LETTERS: Step = Step {
    name: "m004_dead_letters",
    statements: &[
        "CREATE TABLE countersign_dead_letter (
            number {serial},
            message_uuid {uuid} NOT NULL,
            taken_in_at {bigint} NOT NULL,
            died_at {bigint},
            closed_at {bigint},
            epoch {bigint},
            body_bytes {bigint} NOT NULL,
            state {smallint} NOT NULL,
            identity {bytes} NOT NULL UNIQUE,
            subscription {name} NOT NULL,
            message_id {name} NOT NULL,
            upstream {name} NOT NULL,
            kind {name} NOT NULL,
            fingerprint {bytes} NOT NULL,
            reason {name} NOT NULL,
            closed_by {name},
            closed_reason {name},
            packed {name} NOT NULL,
            body {bytes} NOT NULL)",
        "CREATE INDEX countersign_dead_letter_waiting ON countersign_dead_letter (subscription, number) WHERE state = 0",
        "CREATE INDEX countersign_dead_letter_of ON countersign_dead_letter (message_id, number)",
        "CREATE INDEX countersign_dead_letter_closed ON countersign_dead_letter (closed_at) WHERE closed_at IS NOT NULL",
    ],
};

/// Events wait for their publication here; `countersign_retention` says up to which age what is settled may be gone.
const M005_EVENTS: Step = Step {
    name: "m005_events",
    statements: &[
        "CREATE TABLE countersign_event (
            number {serial},
            message_id {uuid} NOT NULL,
            at {bigint} NOT NULL,
            attempt {bigint} NOT NULL,
            due_at {bigint} NOT NULL,
            subscription {name} NOT NULL,
            what {name} NOT NULL,
            upstream {name} NOT NULL,
            reason {name} NOT NULL)",
        "CREATE TABLE countersign_retention (
            what {name} NOT NULL PRIMARY KEY,
            forgotten_before {bigint} NOT NULL)",
    ],
};

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

/// Few rows, read newest first: the primary key serves all but the look for one message.
const M003_AUDIT: Step = Step {
    name: "m003_audit",
    statements: &[
        "CREATE TABLE countersign_audit (
            number {serial},
            at {bigint} NOT NULL,
            ended_at {bigint},
            by {name} NOT NULL,
            act {name} NOT NULL,
            target {name} NOT NULL,
            subscription {name} NOT NULL,
            reason {name} NOT NULL,
            result {name} NOT NULL,
            detail {name} NOT NULL)",
        "CREATE INDEX countersign_audit_target ON countersign_audit (target, number)",
    ],
};
