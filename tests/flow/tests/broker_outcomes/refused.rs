//! Refused by a full queue, and returned for want of a binding.

use anyhow::ensure;
use countersign_flow::{Flow, Setup, order};
use countersign_launcher::{Extras, Which};
use countersign_wire::proto::SendState;

use super::rig::{all_are, extras, finish, has_fired, send};

const ON_SQLITE: Setup = Setup { postgres: false, max_batch: 256 };
/// Sends until the queue with room for five must have refused one.
const MANY: u32 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_queue_refuses_is_committed_and_published_later() -> anyhow::Result<()> {
    let extras = Extras { subscription: "max_length = 5".into(), ..extras("republish_max_ms = 500") };
    let mut flow = Flow::with_extras("nacked", ON_SQLITE, extras).await?;
    flow.start(&[Which::Upstream]).await?;
    let mut ids = all_are(&flow, SendState::Confirmed, 0, 1).await?;
    let mut committed = 0;
    for number in 1..MANY {
        let accepted = send(&flow, order(number)).await?;
        committed += u32::from(accepted.state() == SendState::Committed);
        ids.push(accepted.id);
        if committed == 5 {
            break;
        }
    }
    ensure!(committed == 5, "the queue has room for 5 and took {} messages", ids.len());
    has_fired(&flow, "nacked", 0.0).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    finish(flow, &ids).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_returned_is_committed_and_published_again_when_there_is_a_binding() -> anyhow::Result<()> {
    let mut flow = Flow::with_extras("returned", ON_SQLITE, extras("")).await?;
    flow.start(&Which::ALL).await?;
    let mut ids = all_are(&flow, SendState::Confirmed, 0, 3).await?;
    flow.unbind_work_queue().await?;
    ids.extend(all_are(&flow, SendState::Committed, 3, 3).await?);
    has_fired(&flow, "returned", 0.0).await?;
    flow.bind_work_queue().await?;
    ids.extend(all_are(&flow, SendState::Confirmed, 6, 3).await?);
    finish(flow, &ids).await
}
