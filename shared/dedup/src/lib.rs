//! The Redis adapter: claims that make an effect happen once.
//!
//! In the order of the story: [`config`] says where Redis is and how long it remembers; `link` keeps one connection and opens a
//! new one after every failure; `scripts` are the four atomic steps, and a probe of all they need; [`claims`] sends a batch of them in one round trip. [`pauses`] keeps
//! what operators have paused beside them. [`checkup`] is for operators.
//!
//! Two keys a message and subscription, on one cluster slot (the braces are the hash tag):
//!
//! | key | value | lives |
//! |---|---|---|
//! | `<prefix>:{<subscription>}:<id>:<fingerprint>` | the claim: its owner's token | the lease, or until it is given back or done |
//! | `<prefix>:{<subscription>}:<id>` | the record, a text (`scripts/record.lua`): fingerprint, starts, unfinished starts, epoch, who did what last, whether it is done | the retention |
//!
//! A further effect, which an operator allowed, has a pair of its own: its effect epoch stands behind the claim key
//! (`…:<fingerprint>:<effect epoch>`), and its record is `<prefix>:{<subscription>}:<id>:effect:<effect epoch>`. It shares the first effect's record
//! as far as that says under which fingerprint the id is known; there, `effect` says that a further effect is under way, or `done`.
//!
//! And one a subscription that is paused: `<prefix>:{<subscription>}:paused`, a hash of `reason`, `by`, `at_ms`, which lives until it is resumed.
//!
//! **Invariant:** every call may be repeated with the same tokens; a repeat is answered as the first time.
//! **Invariant:** when Redis cannot be reached the answer is an error, never "fresh".

pub mod checkup;
pub mod claims;
pub mod config;
pub mod health;
mod link;
pub mod pauses;
mod reason;
mod scripts;

pub use claims::RedisClaims;
pub use config::{Config, Error, Server};
pub use health::Eviction;
