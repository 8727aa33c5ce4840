//! A short connection for questions: a refusal closes the channel it was asked on, so the next question gets a new one.

use std::sync::Arc;
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Channel, Connection, ErrorKind};
use tokio::time::timeout;

use crate::config::Config;
use crate::error::Error;
use crate::handshake::Server;
use crate::link::Connector;
use crate::state::{DownReason, Purpose};

/// Longest wait for one answer; declaring a quorum queue on a busy cluster takes seconds.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// AMQP 0-9-1: reply code that ends a connection without an error.
const REPLY_SUCCESS: u16 = 200;

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// It is not there, or what it refers to is not.
    Missing,
    /// The user may not; the broker's words.
    Forbidden(String),
    /// Refused for another reason; the broker's words.
    Refused(String),
}

pub(crate) struct Session {
    connection: Connection,
    channel: Option<Channel>,
    server: Option<Server>,
}

impl Session {
    pub(crate) async fn open(config: &Config, name: &str) -> Result<Self, Error> {
        let connector = Connector::new(Arc::new(config.clone()), name, Purpose::Publish)?;
        let (connection, _) = connector.connect().await.map_err(Error::Down)?;
        Ok(Self { connection, channel: None, server: connector.server() })
    }

    /// What the broker said it is.
    pub(crate) fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Asks one question.
    pub(crate) async fn ask<F>(&mut self, question: impl FnOnce(Channel) -> F + Send) -> Result<Answer, Error>
    where
        F: Future<Output = lapin::Result<()>> + Send,
    {
        let open = self.channel.take().filter(|channel| channel.status().connected());
        let asked = timeout(ANSWER, async {
            let channel = match open {
                Some(channel) => channel,
                None => self.connection.create_channel().await?,
            };
            question(channel.clone()).await.map(|()| channel)
        });
        match asked.await {
            Ok(Ok(channel)) => {
                self.channel = Some(channel);
                Ok(Answer::Done)
            }
            Ok(Err(error)) => judge(error),
            Err(_) => Err(Error::Down(DownReason::Lost(format!("no answer within {} s", ANSWER.as_secs())))),
        }
    }

    pub(crate) async fn close(self) {
        let _ = timeout(GOODBYE, self.connection.close(REPLY_SUCCESS, "OK".into())).await;
    }
}

/// A channel error is the answer; everything else is trouble.
fn judge(error: lapin::Error) -> Result<Answer, Error> {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => match refusal.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Ok(Answer::Missing),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Ok(Answer::Forbidden(refusal.get_message().to_string())),
            AMQPErrorKind::Soft(_) => Ok(Answer::Refused(refusal.get_message().to_string())),
            AMQPErrorKind::Hard(_) => Err(Error::Refused(vec![refusal.get_message().to_string()])),
        },
        _ => Err(Error::Broke(error)),
    }
}
