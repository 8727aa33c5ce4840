//! What a user may do, found out without doing it.
//!
//! The broker checks permissions before it looks at the rest of a request. So each question is a request that is wrong in itself:
//! refused with `ACCESS_REFUSED` when the user may not, and with `PRECONDITION_FAILED` when it may. **Invariant:** no question here
//! publishes, consumes or declares anything, whatever the answer.

use std::fmt;

use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel};

use crate::config::Config;
use crate::error::Error;
use crate::session::{Answer, Session};

/// Where questions are addressed to and as whom: no queue, binding or user has this name.
const NOBODY: &str = "countersign.doctor.nobody";
/// In the broker's words when the exchange is permitted and only this routing key is not (topic permissions).
const TOPIC_REFUSED: &str = "access to topic";

/// One thing a user may need to be allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Publish to an exchange; empty: the default exchange, over which queues are reached directly.
    Write(String),
    /// Consume a queue.
    Read(String),
    /// Declare a queue.
    Configure(String),
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(exchange) if exchange.is_empty() => f.write_str("write to the default exchange (amq.default)"),
            Self::Write(exchange) => write!(f, "write to exchange {exchange}"),
            Self::Read(queue) => write!(f, "read queue {queue}"),
            Self::Configure(queue) => write!(f, "configure queue {queue}"),
        }
    }
}

/// How a user stands with one right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Granted,
    /// It may not; the broker's words.
    Denied(String),
    /// What the right is about does not exist.
    NoSuchThing,
    /// The broker accepted the wrong request or answered otherwise: nothing is known. Its words.
    Unclear(String),
}

/// How the user of this address stands with each right, in order.
///
/// # Errors
/// [`Error::Down`] without a connection, [`Error::Broke`] when it broke in the middle.
pub async fn rights(config: &Config, rights: &[Right]) -> Result<Vec<Standing>, Error> {
    let mut session = Session::open(config, "doctor").await?;
    let mut standings = Vec::with_capacity(rights.len());
    for right in rights {
        let answer = match right {
            Right::Write(exchange) => session.ask(|channel| write(channel, exchange)).await?,
            Right::Read(queue) => session.ask(|channel| read(channel, queue)).await?,
            Right::Configure(queue) => session.ask(|channel| configure(channel, queue)).await?,
        };
        standings.push(judge(answer));
    }
    session.close().await;
    Ok(standings)
}

fn judge(answer: Answer) -> Standing {
    match answer {
        Answer::Missing => Standing::NoSuchThing,
        Answer::Forbidden(words) if words.contains(TOPIC_REFUSED) => Standing::Granted,
        Answer::Forbidden(words) => Standing::Denied(words),
        Answer::Refused(words) if words.contains("PRECONDITION_FAILED") => Standing::Granted,
        Answer::Refused(words) => Standing::Unclear(words),
        Answer::Done => Standing::Unclear("a request that is wrong in itself was accepted".into()),
    }
}

/// An expiration that is no number, and a sender that is not the user: either is refused, both after the permission.
async fn write(channel: Channel, exchange: &str) -> lapin::Result<()> {
    let wrong = BasicProperties::default().with_expiration("never".into()).with_user_id(NOBODY.into());
    // A publish has no answer of its own, but what waits for its confirm is told why the channel was closed.
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let confirm = channel.basic_publish(exchange.into(), NOBODY.into(), BasicPublishOptions::default(), &[], wrong).await?;
    confirm.await.map(drop)
}

/// A priority that is no number. `no_ack` stays off, so that even an accepted consumer would give everything back.
async fn read(channel: Channel, queue: &str) -> lapin::Result<()> {
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), NOBODY.into(), options, wrong("x-priority")).await.map(drop)
}

/// A TTL that is no number.
async fn configure(channel: Channel, queue: &str) -> lapin::Result<()> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, wrong("x-message-ttl")).await.map(drop)
}

fn wrong(argument: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(argument.into(), AMQPValue::LongString(LongString::from("wrong")));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_the_request_itself_proves_the_right() {
        let refused = |words: &str| Answer::Refused(words.into());
        let forbidden = |words: &str| Answer::Forbidden(words.into());
        assert_eq!(judge(refused("PRECONDITION_FAILED - invalid expiration")), Standing::Granted);
        assert_eq!(judge(forbidden("ACCESS_REFUSED - write access to topic 'x' in exchange")), Standing::Granted);
        assert!(matches!(judge(forbidden("ACCESS_REFUSED - write access to exchange")), Standing::Denied(_)));
        assert!(matches!(judge(refused("RESOURCE_LOCKED - exclusive")), Standing::Unclear(_)));
        assert!(matches!(judge(Answer::Done), Standing::Unclear(_)));
        assert_eq!(judge(Answer::Missing), Standing::NoSuchThing);
    }
}
