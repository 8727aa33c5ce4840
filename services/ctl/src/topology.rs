//! `countersign topology`: the one owner of exchanges, queues and bindings.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use countersign_broker::{Config, topology};
use countersign_delivery::Topology;
use serde_json::json;

use crate::exit::Done;
use crate::output;
use crate::target::Target;

#[derive(Args)]
pub struct TopologyArgs {
    /// The topology file.
    #[arg(long, short, default_value = "topology.toml")]
    pub file: PathBuf,
    /// The broker.
    #[arg(long, env = "COUNTERSIGN_AMQP_URL", hide_env_values = true, default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    pub amqp_url: String,
}

pub async fn apply(target: &Target, args: &TopologyArgs) -> anyhow::Result<Done> {
    let (config, wanted) = read(target, args)?;
    let applied = topology::apply(&config, &wanted).await.context("the topology was not applied")?;
    let json = json!({"exchanges": applied.exchanges, "queues": applied.queues, "bindings": applied.bindings});
    output::print(target.output, &json, || {
        format!("declared: {} exchanges, {} queues, {} bindings", applied.exchanges, applied.queues, applied.bindings)
    });
    Ok(Done::All)
}

pub async fn verify(target: &Target, args: &TopologyArgs) -> anyhow::Result<Done> {
    let (config, wanted) = read(target, args)?;
    let differences = topology::verify_arguments(&config, &wanted).await.context("the topology was not verified")?;
    output::print(target.output, &json!({"differences": differences}), || {
        if differences.is_empty() { "the broker is as the file says".to_owned() } else { differences.join("\n") }
    });
    Ok(if differences.is_empty() { Done::All } else { Done::Partly })
}

fn read(target: &Target, args: &TopologyArgs) -> anyhow::Result<(Config, Topology)> {
    // Needed for amqps; a second installation in one process answers with an error that means nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let wanted = wanted(&args.file)?;
    let config = Config { url: args.amqp_url.clone().into(), connect_timeout_ms: target.timeout_ms, ..Config::default() };
    Ok((config, wanted))
}

/// Reads a topology file.
pub fn wanted(file: &Path) -> anyhow::Result<Topology> {
    let unreadable = || format!("{} cannot be read: name the topology file with --file", file.display());
    let text = std::fs::read_to_string(file).with_context(unreadable)?;
    Topology::from_toml(&text).with_context(|| format!("{} is refused", file.display()))
}
