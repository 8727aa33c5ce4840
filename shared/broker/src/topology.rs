//! Declaring what `topology.toml` says, and telling whether the broker has it.
//!
//! One owner declares: [`apply`], for `countersign topology apply`. Services call [`verify`], which needs no permission to configure.
//! **Invariant:** nothing is ever deleted or changed; what differs is reported in words.

mod plan;
mod session;

use countersign_delivery::Topology;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use crate::config::Config;
use crate::error::Error;
use plan::{ExchangePlan, Plan, QueuePlan};
use session::{Answer, Session};

/// How many of each were declared, or found to be there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Exchanges.
    pub exchanges: usize,
    /// Queues.
    pub queues: usize,
    /// Bindings.
    pub bindings: usize,
}

/// Declares exchanges, queues and bindings. Doing it again changes nothing.
///
/// # Errors
/// [`Error::Refused`] with every difference, in words, when something is there with other arguments, or without permission: what can be
/// declared has been. [`Error::Down`] without a connection, [`Error::Broke`] when it broke in the middle.
pub async fn apply(config: &Config, topology: &Topology) -> Result<Applied, Error> {
    let plan = Plan::of(topology);
    let mut session = Session::open(config, "topology").await?;
    let mut refused = Vec::new();
    for exchange in &plan.exchanges {
        keep(&mut refused, &format!("exchange {}", exchange.name), declare_exchange(&mut session, exchange, false).await?);
    }
    for queue in &plan.queues {
        keep(&mut refused, &format!("queue {}", queue.name), declare_queue(&mut session, queue, false).await?);
    }
    for binding in &plan.bindings {
        let what = format!("binding of {} to {} by {:?}", binding.queue, binding.exchange, binding.routing_key);
        let answer = session
            .ask(|channel| async move {
                let (queue, exchange, key) =
                    (binding.queue.as_str().into(), binding.exchange.as_str().into(), binding.routing_key.as_str().into());
                channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), binding.arguments.clone()).await
            })
            .await?;
        keep(&mut refused, &what, answer);
    }
    session.close().await;
    if !refused.is_empty() {
        return Err(Error::Refused(refused));
    }
    Ok(Applied { exchanges: plan.exchanges.len(), queues: plan.queues.len(), bindings: plan.bindings.len() })
}

/// What is missing, in words; empty when every exchange and queue is there. Needs no permission to configure, and cannot see arguments and
/// bindings.
///
/// # Errors
/// [`Error::Down`] without a connection, [`Error::Broke`] when it broke in the middle.
pub async fn verify(config: &Config, topology: &Topology) -> Result<Vec<String>, Error> {
    let plan = Plan::of(topology);
    let mut session = Session::open(config, "verify").await?;
    let mut differences = Vec::new();
    for exchange in &plan.exchanges {
        missing(&mut differences, &format!("exchange {}", exchange.name), declare_exchange(&mut session, exchange, true).await?);
    }
    for queue in &plan.queues {
        missing(&mut differences, &format!("queue {}", queue.name), declare_queue(&mut session, queue, true).await?);
    }
    session.close().await;
    Ok(differences)
}

/// As [`verify`], and compares the arguments of what is there, by declaring it once more. Needs permission to configure.
///
/// # Errors
/// [`Error::Down`] without a connection, [`Error::Broke`] when it broke in the middle.
pub async fn verify_arguments(config: &Config, topology: &Topology) -> Result<Vec<String>, Error> {
    let plan = Plan::of(topology);
    let mut session = Session::open(config, "verify").await?;
    let mut differences = Vec::new();
    for exchange in &plan.exchanges {
        let what = format!("exchange {}", exchange.name);
        if missing(&mut differences, &what, declare_exchange(&mut session, exchange, true).await?) {
            keep(&mut differences, &what, declare_exchange(&mut session, exchange, false).await?);
        }
    }
    for queue in &plan.queues {
        let what = format!("queue {}", queue.name);
        if missing(&mut differences, &what, declare_queue(&mut session, queue, true).await?) {
            keep(&mut differences, &what, declare_queue(&mut session, queue, false).await?);
        }
    }
    session.close().await;
    Ok(differences)
}

async fn declare_exchange(session: &mut Session, plan: &ExchangePlan, passive: bool) -> Result<Answer, Error> {
    let options = ExchangeDeclareOptions {
        passive,
        durable: plan.durable,
        auto_delete: plan.auto_delete,
        internal: plan.internal,
        nowait: false,
    };
    let (name, kind) = (plan.name.as_str(), plan.kind.clone());
    session.ask(|channel| async move { channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await }).await
}

async fn declare_queue(session: &mut Session, plan: &QueuePlan, passive: bool) -> Result<Answer, Error> {
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    let arguments = if passive { FieldTable::default() } else { plan.arguments.clone() };
    let name = plan.name.as_str();
    session.ask(|channel| async move { channel.queue_declare(name.into(), options, arguments).await.map(drop) }).await
}

/// True if it is there.
fn missing(differences: &mut Vec<String>, what: &str, answer: Answer) -> bool {
    match answer {
        Answer::Done => true,
        Answer::Missing => {
            differences.push(format!("{what} does not exist: run `countersign topology apply`"));
            false
        }
        Answer::Refused(words) => {
            differences.push(format!("{what} cannot be looked at: {words}"));
            false
        }
    }
}

fn keep(refused: &mut Vec<String>, what: &str, answer: Answer) {
    match answer {
        Answer::Done => {}
        Answer::Missing => refused.push(format!("{what} refers to something that does not exist")),
        Answer::Refused(words) => refused.push(format!("{what} is not as the topology file says, and nothing is changed by itself: delete it when it is empty, or correct the file; the broker says: {words}")),
    }
}
