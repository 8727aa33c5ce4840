//! The step's tests: real code between a broker, a claim record and a clock that live in memory.

mod archiving;
mod claiming;
mod failing;
mod flowing;
mod guarding;
mod over_http;
mod refusing;
mod stopping;
mod world;
