//! Upstream's tables.
//!
//! A row with a `status` has mode `outbox`; in all others the columns of that mode are NULL and cost nothing. A row of `countersign_message` without an `id` is a tombstone: it keeps its place from being taken, and is never published.

use super::Step;

pub(super) const STEPS: &[Step] = &[M001_MESSAGES, M002_OUTBOX, M003_SETTLED];

const M001_MESSAGES: Step = Step {
    name: "m001_messages",
    statements: &[
        "CREATE TABLE countersign_incarnation (
            id {uuid} NOT NULL PRIMARY KEY,
            upstream {name} NOT NULL,
            state {name} NOT NULL CHECK (state IN ('open', 'fenced', 'closed')))",
        "CREATE INDEX countersign_incarnation_unclosed ON countersign_incarnation (upstream) WHERE state <> 'closed'",
        "CREATE TABLE countersign_heartbeat (
            incarnation {uuid} NOT NULL PRIMARY KEY,
            counter {bigint} NOT NULL,
            watermark {bigint} NOT NULL,
            adopter {uuid})",
        "CREATE TABLE countersign_message (
            incarnation {uuid} NOT NULL,
            seq {bigint} NOT NULL,
            id {uuid} UNIQUE,
            sent_at {bigint} NOT NULL,
            fingerprint {bytes} NOT NULL,
            idempotency_key {name},
            required {name} NOT NULL,
            exchange {name} NOT NULL,
            routing_key {name} NOT NULL,
            type {name} NOT NULL,
            content_type {name} NOT NULL,
            headers {name},
            traceparent {name},
            tracestate {name},
            body {bytes} NOT NULL,
            PRIMARY KEY (incarnation, seq))",
        "CREATE UNIQUE INDEX countersign_message_key ON countersign_message (idempotency_key) WHERE idempotency_key IS NOT NULL",
    ],
};

const M002_OUTBOX: Step = Step {
    name: "m002_outbox",
    statements: &[
        "ALTER TABLE countersign_message ADD COLUMN status {smallint} CHECK (status IN (0, 1, 2))",
        "ALTER TABLE countersign_message ADD COLUMN tries {smallint}",
        "ALTER TABLE countersign_message ADD COLUMN due_at {bigint}",
        "ALTER TABLE countersign_message ADD COLUMN reason {name}",
        "CREATE INDEX countersign_message_due ON countersign_message (due_at) WHERE status = 0",
        "CREATE INDEX countersign_message_failed ON countersign_message (id) WHERE status = 2",
    ],
};

/// Time 0 for what an older version opened, and goes on beating beside this one: nothing of it is known to be settled.
const M003_SETTLED: Step = Step {
    name: "m003_settled",
    statements: &["ALTER TABLE countersign_heartbeat ADD COLUMN settled_until {bigint} NOT NULL DEFAULT 0"],
};
