//! What only SQL can get wrong. What every adapter promises is held together by the suites in `tests/conformance`.

#![allow(clippy::disallowed_methods, reason = "tests have no launch frame: they read the clock and start tasks themselves")]

mod both;
mod cost;
mod fence_under_load;
mod further_effect;
mod handlers;
mod handlers_on_postgres;
mod inbox_cost;
mod postgres;
mod relay;
mod signed_cost;
mod slim_rows;
mod sqlite;
mod stored_cost;
mod support;
