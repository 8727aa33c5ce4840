//! One file per way to lose a message, and one for the traces.

#![allow(clippy::disallowed_methods, reason = "tests have no launch frame; the ban is for the product")]

mod adopter_killed;
mod bad_input;
mod broker_outcomes;
mod callback_killed;
mod check_redelivered;
mod command;
mod command_errors;
mod command_file;
mod command_resumed;
mod commit_killed;
mod confirmed;
mod doctor;
mod duplicate_delivery;
mod embedded_handler;
mod failing_handler;
mod fingerprint_conflict;
mod foreign_clients;
mod further_incarnation;
mod guard_table;
mod http_in;
mod lost_message;
mod lost_receipt;
mod modes_cost;
mod nothing_lost;
mod operator_resend;
mod order_service;
mod outbox;
mod peak_shaving;
mod readme;
mod replicas;
mod retention;
mod shipped_files;
mod stock;
mod traces;
mod two_upstreams;
mod unknown_commit;
mod upstream_killed;
mod why;
