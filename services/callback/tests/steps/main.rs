//! Every step of callback on ports in memory: no broker, no database, no sleep.

mod check;
mod hanging;
mod intake;
mod operators;
mod reconcile;
mod record;
mod resend;
mod rig;
mod sweep;
