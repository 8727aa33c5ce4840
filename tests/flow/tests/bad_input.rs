//! Bad input of every kind, at the real binaries: each gets a word that says what to do, and nothing is lost.
//!
//! What callers send ([`requests`]), what operators configure ([`configuration`]), servers that are not what they should be
//! ([`wrong_servers`]), not there at start ([`away_at_start`]), or gone in the middle ([`gone_later`]).

mod away_at_start;
mod configuration;
mod gone_later;
mod lone;
pub mod private;
mod requests;
mod wrong_servers;
