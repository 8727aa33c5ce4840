//! Callback is killed while it judges checks: what it had not acked is delivered again to the next one.

use countersign_launcher::Which;

use crate::faults::{Scene, Struck};
use crate::schedule::Fault;

pub async fn strike(scene: &mut Scene<'_>) -> anyhow::Result<Struck> {
    let struck = |times, evidence| Struck { fault: Fault::CallbackKilled, times, evidence, book: "the demo, callback's metrics" };
    let judged = async || scene.look.metric(Which::Callback, "countersign_checks_total", "").await.unwrap_or_default();
    let before = judged().await;
    let at_work = scene.moment("callback to judge checks", async || judged().await > before).await;
    let callback = scene.stage.system.process(Which::Callback)?;
    let (pid, alive) = (callback.pid(), callback.is_alive());
    scene.stage.system.kill9(Which::Callback);
    if !(at_work && alive) {
        scene.stage.system.start(Which::Callback, "").await?;
        return Ok(struck(0, "it was not at work when it was killed".to_owned()));
    }
    // The next fault loses receipts while it is dead, and starts it again.
    Ok(struck(1, format!("pid {pid} got SIGKILL with checks in its hands ({before} judged before)")))
}
