//! Downstream's tables: what is done, and what was begun again.
//!
//! A message that never comes again is one slim row of `countersign_inbox`, written once. Starts are counted in a table of their own, so that
//! counting one never waits for the handler's transaction, which holds the row of what will be done. The primary keys are in the order of
//! time, since ids are; no other index is needed.

use super::Step;

pub(super) const STEPS: &[Step] = &[M001_INBOX, M002_EFFECT_EPOCH];

/// The effect epoch joins both keys; four bytes at the end of a row, which as a rule fit into its padding. PostgreSQL adds the column without
/// touching a row, keeps what was granted on the table, and builds the key anew, with the table locked meanwhile; SQLite cannot change a
/// key, so it gets new tables. A replica of an older build cannot write any more, and so consumes nothing, until it is replaced.
const M002_EFFECT_EPOCH: Step = Step {
    name: "m002_effect_epoch",
    statements: &[
        "[postgres] ALTER TABLE countersign_inbox ADD COLUMN effect_epoch integer NOT NULL DEFAULT 0",
        "[postgres] ALTER TABLE countersign_inbox DROP CONSTRAINT countersign_inbox_pkey,
            ADD PRIMARY KEY (subscription, message_id, effect_epoch)",
        "[postgres] ALTER TABLE countersign_inbox_start ADD COLUMN effect_epoch integer NOT NULL DEFAULT 0",
        "[postgres] ALTER TABLE countersign_inbox_start DROP CONSTRAINT countersign_inbox_start_pkey,
            ADD PRIMARY KEY (subscription, message_id, effect_epoch)",
        "[sqlite] CREATE TABLE countersign_inbox_next (
            message_id {uuid} NOT NULL,
            done_at {bigint} NOT NULL,
            subscription {name} NOT NULL,
            fingerprint {bytes} NOT NULL,
            effect_epoch {bigint} NOT NULL DEFAULT 0,
            PRIMARY KEY (subscription, message_id, effect_epoch)) {clustered}",
        "[sqlite] INSERT INTO countersign_inbox_next (message_id, done_at, subscription, fingerprint)
            SELECT message_id, done_at, subscription, fingerprint FROM countersign_inbox",
        "[sqlite] DROP TABLE countersign_inbox",
        "[sqlite] ALTER TABLE countersign_inbox_next RENAME TO countersign_inbox",
        "[sqlite] CREATE TABLE countersign_inbox_start_next (
            message_id {uuid} NOT NULL,
            started_at {bigint} NOT NULL,
            epoch {bigint} NOT NULL,
            starts {bigint} NOT NULL,
            open_starts {bigint} NOT NULL,
            unfinished_before {bigint} NOT NULL,
            subscription {name} NOT NULL,
            fingerprint {bytes} NOT NULL,
            last_token {name},
            released_token {name},
            effect_epoch {bigint} NOT NULL DEFAULT 0,
            PRIMARY KEY (subscription, message_id, effect_epoch)) {clustered}",
        "[sqlite] INSERT INTO countersign_inbox_start_next (message_id, started_at, epoch, starts, open_starts, unfinished_before,
            subscription, fingerprint, last_token, released_token)
            SELECT message_id, started_at, epoch, starts, open_starts, unfinished_before,
            subscription, fingerprint, last_token, released_token FROM countersign_inbox_start",
        "[sqlite] DROP TABLE countersign_inbox_start",
        "[sqlite] ALTER TABLE countersign_inbox_start_next RENAME TO countersign_inbox_start",
    ],
};

const M001_INBOX: Step = Step {
    name: "m001_inbox",
    statements: &[
        "CREATE TABLE countersign_inbox (
            message_id {uuid} NOT NULL,
            done_at {bigint} NOT NULL,
            subscription {name} NOT NULL,
            fingerprint {bytes} NOT NULL,
            PRIMARY KEY (subscription, message_id)) {clustered}",
        "CREATE TABLE countersign_inbox_start (
            message_id {uuid} NOT NULL,
            started_at {bigint} NOT NULL,
            epoch {bigint} NOT NULL,
            starts {bigint} NOT NULL,
            open_starts {bigint} NOT NULL,
            unfinished_before {bigint} NOT NULL,
            subscription {name} NOT NULL,
            fingerprint {bytes} NOT NULL,
            last_token {name},
            released_token {name},
            PRIMARY KEY (subscription, message_id)) {clustered}",
    ],
};
