//! The house rules as a test: where things stand, what may import what, how big they get.
//!
//! Each rule is a pure function from files to [`Complaint`]s, shown on small made-up trees to find what it should; the test
//! `house` applies all of them to this repository.

mod arrows;
mod code;
mod functions;
mod layout;
mod readme;
mod sizes;
mod steps;
mod strangers;
mod tree;

pub use arrows::{arrows, delivery_is_pure, one_crate_per_driver};
pub use layout::{modules, names, top_level};
pub use readme::readme_paths;
pub use sizes::sizes;
pub use steps::steps;
pub use strangers::{lock_sources, strangers};
pub use tree::{File, Tree};

/// One broken rule: where, and what is wrong there.
pub type Complaint = String;
