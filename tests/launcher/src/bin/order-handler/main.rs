//! The business's own service in demo and flow tests: takes orders over HTTP and counts what they effected.
//!
//! A separate process with its own database, so that what it says about effects owes nothing to our books. `POST /orders`
//! takes a CloudEvents delivery in binary mode; `GET /effects` and `GET /counts` tell; `POST /behave` makes it fail or dawdle.

#![allow(clippy::disallowed_methods, reason = "not part of the product: it stands for a user's own service")]

mod behave;
mod effects;
mod orders;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use clap::Parser;

/// A business service that counts its effects.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; port 0 takes a free one, and the address is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The file of its database, created if missing
    #[arg(long)]
    database: PathBuf,
    /// count: every call is an effect; idempotent: a key has one effect, however often it is called
    #[arg(long, value_enum, default_value = "count")]
    mode: effects::Mode,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let effects = effects::Effects::open(&arguments.database, arguments.mode).await?;
    let state =
        Arc::new(orders::State { effects, behaviour: behave::Behaviour::default(), in_flight: orders::InFlight::default() });
    let router = Router::new()
        .route("/orders", post(orders::take))
        .route("/effects", get(orders::tell))
        .route("/counts", get(orders::count))
        .route("/behave", post(orders::behave))
        .with_state(state);
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
