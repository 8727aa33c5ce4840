//! The same work by others that people use, beside the broker alone and all seven steps of ours; what each is and how it is set, see
//! [`crate::peers`].
//!
//! Of ours a message counts when its check has found it signed, less the delay of the check; of a peer when its handler had it, and the
//! run ends only when all are acked. `stream` sends in batches, `unary` one message a call from 64 callers, `unary at commit` without their waiting for the broker. Everything of a round runs one
//! after the other on the same servers. A peer whose packages cannot be had is left out, and the run says so.

use countersign_launcher::Which;
use countersign_wire::proto::AnswerWhen;

use crate::load::Callers;
use crate::peers::{PEERS, Tools};
use crate::rig::{Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options, raw};

const NAME: &str = "peers";
/// One message a call where the stream has so many: as `share` of a peer.
const UNARY_SHARE: u32 = 4;

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let tools = Tools::bring().await;
    for peer in &PEERS {
        if let Some(reason) = peer.left_out(&tools) {
            println!("left out: {}: {reason}", peer.name);
        }
    }
    let servers = Servers::start().await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        one_round(&tools, &servers, round, options, book).await?;
    }
    Ok(())
}

async fn one_round(tools: &Tools, servers: &Servers, round: u32, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let (messages, bytes) = (options.messages, options.body_bytes as usize);
    let share = |of: u32| (messages / of).max(1);

    let mut rig = Rig::start(servers, &Shape::in_process()).await?;
    let raw = raw::run(&rig.amqp, messages, bytes, None).await?.per_second();
    book.note(NAME, "raw", "messages/s", raw, Some(1.0));
    let mut note = |metric: &str, per_second: f64| book.note(NAME, metric, "messages/s", per_second, Some(per_second / raw));
    note("countersign stream", rig.pass(messages, bytes).await?.verified());
    rig.finish(messages).await?;

    let unary = share(UNARY_SHARE);
    for (metric, answer_when) in
        [("countersign unary", AnswerWhen::Confirmed), ("countersign unary at commit", AnswerWhen::Committed)]
    {
        let mut rig = Rig::start(servers, &Shape::in_process()).await?;
        let callers = Callers::connect(&rig.system.grpc_url(Which::Upstream)).await?;
        note(metric, rig.pass_by(unary, callers.send(unary, bytes, answer_when)).await?.verified());
        rig.finish(unary).await?;
    }

    for peer in PEERS.iter().filter(|peer| peer.left_out(tools).is_none()) {
        let messages = share(peer.share);
        let took = peer.run(tools, servers, round, messages, options.body_bytes).await?;
        note(peer.name, f64::from(messages) / took.as_secs_f64());
    }
    Ok(())
}
