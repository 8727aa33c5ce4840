//! The step's tests: real code between a broker, a claim record and a clock that live in memory.

mod archiving;
mod batching;
mod claiming;
mod counting;
mod declaring;
mod failing;
mod flowing;
mod further_effect;
mod guarding;
mod jitter;
mod limiting;
mod operating;
mod over_http;
mod pausing;
mod refusing;
mod stopping;
mod world;
