//! Storms: far more falls due at once than can be dealt with at once, while somebody is dead, full or slow.
//!
//! What is counted is counted by others than callback: the business service, the broker, and a stand-in between callback and each upstream.

mod backlog;
pub mod bank;
mod due_at_once;
mod full_queue;
mod judged;
mod stand_in;
mod troubled_upstream;

use std::time::Duration;

use anyhow::Context as _;
use countersign_flow::{Flow, PATIENCE, order};
use countersign_launcher::Which;
use countersign_wire::proto::SendMessagesRequest;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};

use stand_in::StandIn;
use tonic::transport::Endpoint;

/// Messages in one call.
const CALL: u32 = 500;

/// Whether the long tests are wanted.
fn is_long() -> bool {
    let long = std::env::var_os("COUNTERSIGN_LONG").is_some();
    if !long {
        println!("skipped: this one takes minutes; run it with tests/run --long, or COUNTERSIGN_LONG=1");
    }
    long
}

/// Sends orders `first..first + count` to the upstream at this address and returns their ids.
pub async fn send_to(url: &str, first: u32, count: u32) -> anyhow::Result<Vec<String>> {
    let mut upstream = UpstreamServiceClient::new(Endpoint::from_shared(url.to_owned())?.timeout(PATIENCE).connect().await?);
    let mut ids = Vec::new();
    for from in (first..first + count).step_by(usize::try_from(CALL)?) {
        let messages = (from..(from + CALL).min(first + count)).map(order).collect();
        let answer = upstream.send_messages(SendMessagesRequest { messages }).await?.into_inner();
        for result in answer.results {
            match result.result {
                Some(Sent::Accepted(accepted)) => ids.push(accepted.id),
                other => anyhow::bail!("not accepted: {other:?}"),
            }
        }
    }
    Ok(ids)
}

/// Has callback reach these upstreams through their stand-ins.
fn reached_through(flow: &Flow, lines: &[(&str, &StandIn)]) -> anyhow::Result<()> {
    let file = flow.ground.path("callback.toml");
    let addresses: Vec<String> = lines.iter().map(|(name, line)| format!("{name} = {:?}", line.url())).collect();
    let text = std::fs::read_to_string(&file)?;
    Ok(std::fs::write(&file, format!("{text}\n[callback.upstreams]\n{}\n", addresses.join("\n")))?)
}

/// MSG DB's own count of what has been committed or rolled back, single statements included.
async fn transactions(flow: &Flow) -> anyhow::Result<i64> {
    const COUNT: &str = "SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = current_database()";
    let database = msg_db(flow).await?;
    let row = database.query_one_raw(Statement::from_string(DbBackend::Postgres, COUNT)).await?.context("no count")?;
    database.close().await?;
    Ok(row.try_get("", "n")?)
}

async fn msg_db(flow: &Flow) -> anyhow::Result<DatabaseConnection> {
    let configuration = std::fs::read_to_string(flow.ground.path("callback.toml"))?;
    let (_, database) = configuration.split_once("[database]").context("no [database]")?;
    let (_, url) = database.split_once("url = \"").context("no url")?;
    let mut options = ConnectOptions::new(url.split('"').next().unwrap_or_default());
    options.max_connections(1).sqlx_logging(false);
    Ok(sea_orm::Database::connect(options).await?)
}

/// The most memory that callback has had, MiB.
fn peak_mib(flow: &Flow) -> anyhow::Result<u64> {
    let pid = flow.system.process(Which::Callback)?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("reading callback's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? / 1024)
}

/// Resends that callback and upstream count, whatever became of them.
async fn resends(flow: &Flow) -> anyhow::Result<f64> {
    let ordered = flow.system.metric(Which::Callback, "countersign_resend_orders_total").await?;
    Ok(ordered + flow.system.metric(Which::Upstream, "countersign_resends_total").await?)
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
