//! Upstream's tables.
//!
//! A row with a `status` has mode `outbox`; in all others the columns of that mode are NULL and cost nothing. A row of `countersign_message` without an `id` is a tombstone: it keeps its place from being taken, and is never published.
//!
//! A row with a `label` has its five texts in `countersign_label`. One without `sent_at` was sent when its id was minted, and its id says its
//! place; for the others there is an index on ids. The `tag` of an incarnation is what such ids say of it: no two have the same one, so no two messages
//! have the same id.

use super::Step;

pub(super) const STEPS: &[Step] = &[M001_MESSAGES, M002_OUTBOX, M003_SETTLED, M004_LABELS];

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

/// Fewer bytes a row, and one index less to write. What is there stays as it is; an older version goes on writing beside this one, but cannot read
/// what this one has written. The tables are locked while they are changed, and the index on ids is built anew; SQLite copies the table.
const M004_LABELS: Step = Step {
    name: "m004_labels",
    statements: &[
        "CREATE TABLE countersign_label (
            number {bigint} NOT NULL PRIMARY KEY,
            required {name} NOT NULL,
            exchange {name} NOT NULL,
            routing_key {name} NOT NULL,
            type {name} NOT NULL,
            content_type {name} NOT NULL)",
        "ALTER TABLE countersign_incarnation ADD COLUMN tag {bigint}",
        "CREATE UNIQUE INDEX countersign_incarnation_tag ON countersign_incarnation (tag) WHERE tag IS NOT NULL",
        "[postgres] ALTER TABLE countersign_message
            ADD COLUMN label bigint,
            ALTER COLUMN sent_at DROP NOT NULL,
            ALTER COLUMN required DROP NOT NULL,
            ALTER COLUMN exchange DROP NOT NULL,
            ALTER COLUMN routing_key DROP NOT NULL,
            ALTER COLUMN type DROP NOT NULL,
            ALTER COLUMN content_type DROP NOT NULL,
            ADD CONSTRAINT countersign_message_label CHECK (label IS NOT NULL OR (required IS NOT NULL AND exchange IS NOT NULL
                AND routing_key IS NOT NULL AND type IS NOT NULL AND content_type IS NOT NULL)),
            DROP CONSTRAINT countersign_message_id_key",
        "[sqlite] CREATE TABLE countersign_message_next (
            incarnation {uuid} NOT NULL,
            seq {bigint} NOT NULL,
            id {uuid},
            sent_at {bigint},
            fingerprint {bytes} NOT NULL,
            idempotency_key {name},
            required {name},
            exchange {name},
            routing_key {name},
            type {name},
            content_type {name},
            label {bigint},
            headers {name},
            traceparent {name},
            tracestate {name},
            body {bytes} NOT NULL,
            status {smallint} CHECK (status IN (0, 1, 2)),
            tries {smallint},
            due_at {bigint},
            reason {name},
            PRIMARY KEY (incarnation, seq),
            CHECK (label IS NOT NULL OR (required IS NOT NULL AND exchange IS NOT NULL
                AND routing_key IS NOT NULL AND type IS NOT NULL AND content_type IS NOT NULL)))",
        "[sqlite] INSERT INTO countersign_message_next (incarnation, seq, id, sent_at, fingerprint, idempotency_key, required, exchange,
            routing_key, type, content_type, headers, traceparent, tracestate, body, status, tries, due_at, reason)
            SELECT incarnation, seq, id, sent_at, fingerprint, idempotency_key, required, exchange,
            routing_key, type, content_type, headers, traceparent, tracestate, body, status, tries, due_at, reason
            FROM countersign_message",
        "[sqlite] DROP TABLE countersign_message",
        "[sqlite] ALTER TABLE countersign_message_next RENAME TO countersign_message",
        "[sqlite] CREATE UNIQUE INDEX countersign_message_key ON countersign_message (idempotency_key) WHERE idempotency_key IS NOT NULL",
        "[sqlite] CREATE INDEX countersign_message_due ON countersign_message (due_at) WHERE status = 0",
        "[sqlite] CREATE INDEX countersign_message_failed ON countersign_message (id) WHERE status = 2",
        "CREATE UNIQUE INDEX countersign_message_id ON countersign_message (id) WHERE sent_at IS NOT NULL",
    ],
};
