//! Redis is slow, gone, empty, full, read-only, refuses, or loads, while messages flow.
//!
//! The same each time ([`rig`]): the fault has fired and is counted by its reason; readiness says what it is; the consumer is cancelled, so that
//! the work queue has its messages back and nobody holds any; nothing is handled meanwhile, since nothing can be claimed; nothing is run into the
//! broker's delivery limit; and mended, it goes on by itself. Then the business service's own database has each effect once, except for what
//! the loss of Redis' data costs, and that is counted.

mod away;
mod forgetful;
mod refusing;
mod rig;
mod slow;
