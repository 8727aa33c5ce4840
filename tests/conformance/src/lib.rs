//! One suite per port, run on the adapter and on the in-memory fake: see `tests/ports`.
//!
//! The promises themselves are `countersign_testkit::conformance`; here is only what they run on. Real servers come from
//! `countersign_launcher::Ground`: those of the environment, or private ones.
