//! The step's tests: real code between a broker, a claim record and a clock that live in memory.

mod claiming;
mod declaring;
mod failing;
mod flowing;
mod limiting;
mod operating;
mod over_http;
mod pausing;
mod refusing;
mod stopping;
mod world;
