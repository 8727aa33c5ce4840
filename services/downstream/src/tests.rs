//! The step's tests: real code between a broker, a claim record and a clock that live in memory.

mod claiming;
mod dead_letters;
mod failing;
mod flowing;
mod over_http;
mod refusing;
mod stopping;
mod world;
