//! The pure protocol of Countersign: "every message is signed for, or sent again".
//!
//! Read it in the order of the story. What travels: [`id`], [`fingerprint`], [`message`], [`receipt`], [`check`], [`probe`].
//! How it is judged: [`watermark`], [`seqs`] and [`settled`] (what upstream may forget), [`state`] (what callback knows of one delivery),
//! [`policy`] and [`decide`](mod@decide) (what callback does about it), [`redrive`] (what of the dead comes back), [`horizon`] (how
//! late it can come), [`expiry`] (what is too old), [`digest`] and [`reconcile`] (what the broker lost without anybody noticing).
//! Of calls that are forbidden, which are rows of the audit: [`refusals`].
//! Where it travels: [`topology`]. What the adapters must fill: [`ports`].
//!
//! **Invariant:** nothing here reads a clock, draws a random number, awaits, or does I/O; time and ids are arguments.

pub mod check;
pub mod decide;
pub mod digest;
pub mod expiry;
pub mod fingerprint;
pub mod horizon;
pub mod id;
pub mod message;
pub mod outbox;
pub mod policy;
pub mod ports;
pub mod probe;
pub mod receipt;
pub mod reconcile;
pub mod redrive;
pub mod refusals;
pub mod routing;
pub mod seqs;
pub mod settled;
pub mod state;
pub mod time;
pub mod topology;
pub mod watermark;

pub use decide::{Verdict, decide};
pub use fingerprint::Fingerprint;
pub use id::{IdempotencyKey, IncarnationId, MessageId, Seq, SubscriptionName, UpstreamName};
pub use message::{Attempt, Message, Position, StoredMessage, TraceContext};
pub use receipt::{FailReason, Outcome, Receipt};
pub use state::Delivery;
pub use time::Timestamp;
pub use topology::Topology;
