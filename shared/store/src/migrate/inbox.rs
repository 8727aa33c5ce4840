//! Downstream's tables: what is done, and what was begun again.
//!
//! A message that never comes again is one slim row of `countersign_inbox`, written once. Starts are counted in a table of their own, so that
//! counting one never waits for the handler's transaction, which holds the row of what will be done. The primary keys are in the order of
//! time, since ids are; no other index is needed.

use super::Step;

pub(super) const STEPS: &[Step] = &[Step {
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
}];
