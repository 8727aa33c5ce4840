//! Every step of callback on ports in memory: no broker, no database, no sleep.

mod acts;
mod canary;
mod check;
mod dead_letters;
mod events;
mod hanging;
mod intake;
mod letters_audited;
mod operators;
mod reconcile;
mod record;
mod resend;
mod retention;
mod rig;
mod sweep;
