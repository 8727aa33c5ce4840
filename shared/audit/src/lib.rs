//! Has acts of operators at upstream and downstream written into the audit, which callback keeps: what they do is told over the receipts queue.
//!
//! An [`Auditor`] has an act carried out between two tellings, that it is about to be tried and how it ended, and awaits the broker's confirm of
//! each for a moment. What is forbidden is told once ([`Auditor::refuse`]), and bounded. Callback makes one row of each act.
//!
//! What can fail: the broker, which does not take a telling in time. An act that changes something goes on all the same ([`Unheard::GoesOn`]): an
//! operator pauses a subscription because something is broken. Its tellings are repeated until the broker has them. A payload is not shown
//! ([`Unheard::IsRefused`]). What is still not told when the process ends, or does not fit into the room for what waits, is missing from the
//! audit: it is in the log, and counted (`countersign_audit_missing_total`).
//!
//! **Invariant:** nothing is tried before its telling was handed to the publisher, so no act takes hold that nobody tried to write down.

mod auditor;
mod tell;

pub use auditor::{Asked, Auditor, End, NotDone, Unheard};
