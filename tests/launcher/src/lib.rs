//! Private servers and our own binaries, for demo, tests and benchmark.
//!
//! A run needs `RabbitMQ`, Redis and `PostgreSQL` that belong to it alone: on free ports of 127.0.0.1, with data in a
//! temporary directory, killable with SIGKILL in the middle of a test, and gone afterwards. [`RabbitMq`], [`Redis`],
//! [`Postgres`] and [`Prometheus`] start one each. Most tests share one of each per run and take their own corner of it: [`Ground`]. What a
//! test starts of our own is a [`Program`].
//!
//! **Who stops what.** Dropping a handle kills its process and reaps it. Shared servers live under the `with-servers`
//! binary, which ends them when its command ends, on SIGINT and SIGTERM, and when its own parent vanishes.
//! **Invariant:** processes are ended by the id of a child that has not been reaped yet, never by name.

#![allow(
    clippy::disallowed_methods,
    reason = "tests read their own environment and have no launch frame; the ban is for the product"
)]

mod binary;
mod broker;
mod collector;
mod dashboard;
mod exports;
mod front;
mod ground;
mod look;
mod node;
mod port;
mod postgres;
mod program;
mod prometheus;
mod promtool;
mod python;
mod rabbitmq;
mod redis;
mod shared;
mod system;
mod wait;

pub use binary::binary;
pub use broker::{Broker, Permissions};
pub use collector::OtlpCollector;
pub use dashboard::{Dashboard, Query, Shown};
pub use exports::{AMQP, AMQP_ADMIN, Exports, POSTGRES, REDIS};
pub use ground::Ground;
pub use look::{Counts, Effects, Look};
pub use node::node_packages;
pub use port::{free_hundred, free_port};
pub use postgres::{Postgres, PostgresOptions, create_database};
pub use program::{Program, Running};
pub use prometheus::{Prometheus, Series, Target};
pub use promtool::promtool;
pub use python::{python, python_in, tools};
pub use rabbitmq::{RabbitMq, RabbitMqCluster, Standing};
pub use redis::{Redis, RedisOptions, redis_answers};
pub use system::{BINDING, EXCHANGE, Extras, SUBSCRIPTION, System, Which, Wiring};
pub use wait::wait_until;

pub mod serve;
