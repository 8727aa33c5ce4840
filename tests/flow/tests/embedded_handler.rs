//! A Rust service that embeds downstream and handles messages by the trait: the example that is shipped.

use anyhow::ensure;
use countersign_flow::{Flow, everywhere};
use countersign_launcher::Which;
use sea_orm::{ConnectionTrait as _, Database, DbBackend, Statement};

everywhere!(the_example_takes_each_order_once);

async fn the_example_takes_each_order_once(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    // The handler is in the program, so the configuration names no endpoint.
    let file = flow.ground.path("downstream.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.split("[[downstream.subscription]]").next().unwrap_or_default())?;
    flow.system.spawn_as(Which::Downstream, "inventory", "downstream.after_effect=3*off->1*return")?;
    let ids = flow.send(0, 10).await?;
    // It dies once between an effect and its mark; its own transaction recognises what comes again.
    flow.system.dies_at(Which::Downstream, "downstream.after_effect", countersign_flow::PATIENCE).await?;
    flow.system.spawn_as(Which::Downstream, "inventory", "")?;
    flow.all_signed(&ids).await?;
    let database = Database::connect(flow.ground.sqlite("inventory")).await?;
    let query = Statement::from_string(DbBackend::Sqlite, "SELECT id FROM taken");
    let rows = database.query_all_raw(query).await?;
    let mut taken = rows.iter().map(|row| row.try_get::<String>("", "id")).collect::<Result<Vec<_>, _>>()?;
    taken.sort();
    let mut sent = ids.clone();
    sent.sort();
    ensure!(taken == sent, "taken {taken:?}, sent {sent:?}");
    ensure!(flow.system.effects().await?.calls == 0, "the HTTP handler was called");
    flow.finish().await
}
