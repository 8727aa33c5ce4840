//! The broker as services see it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Consumer, Consumers, Publication, Published, Publisher};
use lapin::types::ShortString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::consumer::{QueueConsumer, Source};
use crate::depth;
use crate::error::Error;
use crate::link::{Connector, Link};
use crate::publisher::PublisherHandle;
use crate::state::{Board, Purpose, State};

/// The supervised connections to one broker; cheap to clone. It is the port [`Publisher`] and the port [`Consumers`].
///
/// The connection for publishing is opened at once, the one for consuming with the first consumer.
#[derive(Clone, Debug)]
pub struct Broker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    connector: Connector,
    board: Arc<Board>,
    publisher: PublisherHandle,
    consuming: OnceLock<Link>,
    generations: Arc<AtomicU64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Broker {
    /// Starts connecting, and never fails because the broker is away. `name` is shown in the broker's list of connections.
    ///
    /// Background work is spawned on `tasks`. Cancel `stop` when your own work has drained: publishes in flight are then still awaited, at
    /// most for the confirm timeout; new ones are answered `Unknown`; consumers wait for ever.
    ///
    /// # Errors
    /// [`Error::Config`] only.
    pub fn connect(config: Config, name: &str, tasks: &TaskTracker, stop: CancellationToken) -> Result<Self, Error> {
        let config = Arc::new(config);
        let connector = Connector::new(Arc::clone(&config), name, Purpose::Publish)?;
        let board = Arc::new(Board::new());
        // The connection outlives the task that waits for its last confirms.
        let confirmed = CancellationToken::new();
        let link = Link::start(connector.clone(), Arc::clone(&board), tasks, confirmed.clone());
        let publisher = PublisherHandle::start(&config, link, tasks, stop.clone(), confirmed);
        Ok(Self(Arc::new(Inner {
            config,
            connector,
            board,
            publisher,
            consuming: OnceLock::new(),
            generations: Arc::default(),
            tasks: tasks.clone(),
            stop,
        })))
    }

    /// How the connections stand, the worse of the two, now and from now on. The first value is there at once.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.0.board.watch()
    }

    fn consuming(&self) -> &Link {
        self.0.consuming.get_or_init(|| {
            let connector = self.0.connector.for_purpose(Purpose::Consume);
            Link::start(connector, Arc::clone(&self.0.board), &self.0.tasks, self.0.stop.clone())
        })
    }
}

#[async_trait]
impl Publisher for Broker {
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Published> {
        self.0.publisher.publish(batch).await
    }

    fn is_up(&self) -> bool {
        self.0.publisher.is_up()
    }

    async fn up(&self) {
        self.0.publisher.up().await;
    }
}

#[async_trait]
impl Consumers for Broker {
    async fn consume(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Consumer>, PortError> {
        if prefetch == 0 {
            return Err(refused("a prefetch of 0 means no bound: use 1 or more".into()));
        }
        let name = named(queue)?;
        let source = Source::new(name, prefetch, self.consuming().clone(), &self.0.config, Arc::clone(&self.0.generations));
        Ok(Box::new(QueueConsumer::new(source, self.0.tasks.clone())))
    }

    async fn ready(&self, queue: &str) -> Result<u32, PortError> {
        depth::ready(self.consuming().clone(), named(queue)?, self.0.config.connect_timeout()).await
    }
}

fn named(queue: &str) -> Result<ShortString, PortError> {
    if queue.is_empty() {
        return Err(refused("the name of the queue is empty".into()));
    }
    ShortString::try_new(queue).map_err(|error| refused(format!("the name of the queue is too long: {error}")))
}

fn refused(problem: String) -> PortError {
    PortError::Refused("the broker", Box::new(Error::Config(vec![problem])))
}
