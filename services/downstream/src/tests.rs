//! The step's tests: real code between a broker, a claim record and a clock that live in memory.

mod archiving;
mod batching;
mod claiming;
mod counting;
mod failing;
mod flowing;
mod guarding;
mod jitter;
mod over_http;
mod refusing;
mod stopping;
mod world;
