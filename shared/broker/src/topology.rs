//! Declaring what `topology.toml` says, and telling whether the broker has it.
//!
//! One owner declares: [`apply`], for `countersign topology apply`. Services call [`verify`], which needs no permission to configure.
//! **Invariant:** nothing is ever deleted or changed; what differs is reported in words.

mod permissions;
mod plan;

use std::fmt;

use countersign_delivery::Topology;
use countersign_delivery::routing::ExchangeKind;
use countersign_delivery::topology::Exchange;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};

use crate::config::Config;
use crate::error::Error;
use crate::session::{Answer, Session};
pub use permissions::Grant;
pub use plan::{Argument, BindingPlan, Plan, QueuePlan};

/// The argument of an exchange that names its alternate exchange. The broker compares it when an exchange is declared again.
pub const ALTERNATE: &str = "alternate-exchange";

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
        let arguments = table(binding.arguments.iter().map(|(name, value)| (name.as_str(), text(value))));
        let answer = session
            .ask(|channel| async move {
                let (queue, exchange, key) =
                    (binding.queue.as_str().into(), binding.exchange.as_str().into(), binding.routing_key.as_str().into());
                channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), arguments).await
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
    Ok(compare(config, topology).await?.iter().map(ToString::to_string).collect())
}

/// How the broker differs from the topology. Declares only what is there, so it creates nothing.
///
/// # Errors
/// [`Error::Down`] without a connection, [`Error::Broke`] when it broke in the middle.
pub async fn compare(config: &Config, topology: &Topology) -> Result<Vec<Difference>, Error> {
    let plan = Plan::of(topology);
    let mut session = Session::open(config, "verify").await?;
    let mut differences = Vec::new();
    for exchange in &plan.exchanges {
        let mut answer = declare_exchange(&mut session, exchange, true).await?;
        if answer == Answer::Done {
            answer = declare_exchange(&mut session, exchange, false).await?;
        }
        differences.extend(Difference::of(format!("exchange {}", exchange.name), answer));
    }
    for queue in &plan.queues {
        let mut answer = declare_queue(&mut session, queue, true).await?;
        if answer == Answer::Done {
            answer = declare_queue(&mut session, queue, false).await?;
        }
        differences.extend(Difference::of(format!("queue {}", queue.name), answer));
    }
    session.close().await;
    Ok(differences)
}

/// One exchange or queue that is not as it should be, or cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `exchange NAME` or `queue NAME`.
    pub what: String,
    /// How it differs.
    pub how: How,
}

/// How something differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// It is not there.
    Missing,
    /// It is there, but the user may not declare, so its arguments cannot be compared; the broker's words.
    NotCompared(String),
    /// It is there with other arguments; the broker's words.
    Other(String),
}

impl Difference {
    fn of(what: String, answer: Answer) -> Option<Self> {
        let how = match answer {
            Answer::Done => return None,
            Answer::Missing => How::Missing,
            Answer::Forbidden(words) => How::NotCompared(words),
            Answer::Refused(words) => How::Other(words),
        };
        Some(Self { what, how })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match &self.how {
            How::Missing => write!(f, "{what} does not exist: run `countersign topology apply`"),
            How::NotCompared(words) => write!(f, "{what} cannot be compared: {words}"),
            How::Other(words) => f.write_str(&differs(what, words)),
        }
    }
}

async fn declare_exchange(session: &mut Session, plan: &Exchange, passive: bool) -> Result<Answer, Error> {
    let options = ExchangeDeclareOptions {
        passive,
        durable: plan.durable,
        auto_delete: plan.auto_delete,
        internal: plan.internal,
        nowait: false,
    };
    let arguments = table(plan.alternate.iter().map(|alternate| (ALTERNATE, text(alternate))));
    let (name, kind) = (plan.name.as_str(), kind(plan.kind));
    session.ask(|channel| async move { channel.exchange_declare(name.into(), kind, options, arguments).await }).await
}

async fn declare_queue(session: &mut Session, plan: &QueuePlan, passive: bool) -> Result<Answer, Error> {
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    let arguments = if passive { FieldTable::default() } else { arguments(plan) };
    let name = plan.name.as_str();
    session.ask(|channel| async move { channel.queue_declare(name.into(), options, arguments).await.map(drop) }).await
}

fn missing(differences: &mut Vec<String>, what: &str, answer: Answer) {
    match answer {
        Answer::Done => {}
        Answer::Missing => differences.push(format!("{what} does not exist: run `countersign topology apply`")),
        Answer::Forbidden(words) | Answer::Refused(words) => differences.push(format!("{what} cannot be looked at: {words}")),
    }
}

fn keep(refused: &mut Vec<String>, what: &str, answer: Answer) {
    match answer {
        Answer::Done => {}
        Answer::Missing => refused.push(format!("{what} refers to something that does not exist")),
        Answer::Forbidden(words) => refused.push(format!("{what} may not be declared by this user: {words}")),
        Answer::Refused(words) => refused.push(differs(what, &words)),
    }
}

fn differs(what: &str, words: &str) -> String {
    let mend = "nothing is changed by itself: delete it when it is empty, or correct the file";
    format!("{what} is not as the topology file says, and {mend}; the broker says: {words}")
}

fn arguments(plan: &QueuePlan) -> FieldTable {
    table(plan.arguments.iter().map(|(name, value)| {
        let value = match value {
            Argument::Text(value) => text(value),
            Argument::Number(value) => AMQPValue::LongLongInt(*value),
        };
        (*name, value)
    }))
}

fn table<'a>(pairs: impl Iterator<Item = (&'a str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), value);
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

const fn kind(kind: ExchangeKind) -> lapin::ExchangeKind {
    match kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Headers => lapin::ExchangeKind::Headers,
    }
}
