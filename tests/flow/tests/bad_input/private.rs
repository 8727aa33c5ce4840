//! Services on servers of which one is the test's own, to be stopped and started.

use countersign_flow::{CHECK_DELAY_MS, Flow};
use countersign_launcher::{Ground, System, Which, Wiring};

use super::lone;

/// The servers that are not the shared ones; empty: shared, or SQLite.
#[derive(Default)]
pub struct Own {
    /// The broker with virtual host.
    pub amqp: Option<String>,
    /// Redis.
    pub redis: Option<String>,
    /// Databases of upstream and callback.
    pub databases: Option<(String, String)>,
    /// Callback's alone.
    pub msg_db: Option<String>,
    /// Databases of the shared PostgreSQL, where none is given, instead of SQLite.
    pub postgres: bool,
}

/// Wires the services; starts none.
pub async fn flow(test: &str, own: Own) -> anyhow::Result<Flow> {
    let ground = Ground::new(test).await?;
    let (upstream_database, callback_database) = match own.databases {
        Some(databases) => databases,
        None if own.postgres => (ground.database("up").await?, ground.database("msg").await?),
        None => (ground.sqlite("upstream"), own.msg_db.unwrap_or_else(|| ground.sqlite("msg"))),
    };
    let wiring = Wiring {
        dir: ground.dir().to_owned(),
        amqp: own.amqp.unwrap_or_else(|| ground.amqp_url()),
        redis: own.redis.unwrap_or_else(|| ground.redis_url().to_owned()),
        upstream_database,
        callback_database,
        max_batch: 256,
        check_delay_ms: CHECK_DELAY_MS,
        handler_mode: "count",
        otlp: None,
    };
    Ok(Flow { system: System::prepare(wiring).await?, ground })
}

/// Waits until each of these services says why it is not ready, and asserts that none has ended.
pub async fn unready(flow: &Flow, which: &[Which], dependency: &str, words: &[&str]) -> anyhow::Result<()> {
    for which in which {
        lone::unready(&flow.system.http_url(*which), dependency, words).await.map_err(|error| error.context(which.name()))?;
        anyhow::ensure!(flow.system.process(*which)?.is_alive(), "{} has ended", which.name());
    }
    Ok(())
}

/// Waits until all of them are ready again.
pub async fn ready(flow: &Flow) -> anyhow::Result<()> {
    for which in Which::ALL {
        lone::ready(&flow.system.http_url(which)).await.map_err(|error| error.context(which.name()))?;
    }
    Ok(())
}
