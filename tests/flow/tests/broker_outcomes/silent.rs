//! The broker is stopped in mid-air (SIGSTOP): connections stay, answers do not come.

use countersign_launcher::Which;
use countersign_wire::proto::SendState;

use super::rig::{Private, all_are, finish, has_fired, private};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_to_a_silent_broker_are_committed_in_time() -> anyhow::Result<()> {
    let Private { dir: _dir, broker, mut flow } = private("silent", "").await?;
    flow.start(&Which::ALL).await?;
    let mut ids = all_are(&flow, SendState::Confirmed, 0, 3).await?;
    broker.settle().await?;
    broker.pause()?;
    ids.extend(all_are(&flow, SendState::Committed, 3, 5).await?);
    has_fired(&flow, "unknown", 0.0).await?;
    ids.extend(all_are(&flow, SendState::Committed, 8, 2).await?);
    broker.resume()?;
    finish(flow, &ids).await
}
