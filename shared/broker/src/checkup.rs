//! What an operator's check-up asks of the broker. Nothing asked here changes anything.

mod rights;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use crate::config::Config;
use crate::error::Error;
use crate::session::{Answer, Session};

pub use crate::handshake::Server;
pub use rights::{Right, Standing, rights};

/// Connects and logs in as a service does, and says what answered.
///
/// # Errors
/// [`Error::Down`] with the reason, [`Error::Config`] when the section cannot be used.
pub async fn server(config: &Config) -> Result<Server, Error> {
    let session = Session::open(config, "doctor").await?;
    let server = session.server().cloned();
    session.close().await;
    Ok(server.unwrap_or_else(|| Server { product: String::new(), version: String::new() }))
}

/// What a queue held when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The queue.
    pub queue: String,
    /// Messages ready to be delivered; those at a consumer do not count.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// What these queues hold; those that are missing, or may not be looked at, are left out.
///
/// # Errors
/// [`Error::Down`] without a connection, [`Error::Broke`] when it broke in the middle.
pub async fn holdings(config: &Config, queues: &[String]) -> Result<Vec<Holding>, Error> {
    let mut session = Session::open(config, "doctor").await?;
    let mut holdings = Vec::with_capacity(queues.len());
    for queue in queues {
        let mut found = None;
        let slot = &mut found;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let answer = session
            .ask(|channel| async move {
                let seen = channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
                *slot = Some((seen.message_count(), seen.consumer_count()));
                Ok(())
            })
            .await?;
        if let (Answer::Done, Some((messages, consumers))) = (answer, found) {
            holdings.push(Holding { queue: queue.clone(), messages, consumers });
        }
    }
    session.close().await;
    Ok(holdings)
}
