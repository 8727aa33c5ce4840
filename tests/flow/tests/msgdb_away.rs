//! MSG DB is stopped, killed, locked, read-only, full of waiters or in conflict with itself, while messages flow.
//!
//! The same each time ([`rig`]): readiness says what it is; no receipt is recorded and, unless reading still works, no check is judged; none of
//! either is acked, so their queues grow; operators are told to try again. Mended, everything is worked off by itself: each message is
//! signed for, none was lost, and so none was sent again. Dead letters, and what nobody can read, wait in their queues as well ([`letters`]).

mod in_the_way;
mod letters;
mod on_sqlite;
mod rig;
mod stopped;
