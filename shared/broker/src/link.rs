//! One supervised connection: connects, watches, drops it at the first error, connects again under the next generation.
//!
//! lapin's own recovery gives up after 16 tries and never recovers channel errors, so it stays off. **Invariant:** nothing survives from
//! one generation to the next; whoever held a channel of the old one finds out by [`LinkState`].

mod connect;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use countersign_telemetry::names;
use futures::{Stream, StreamExt};
use lapin::{Connection, Event};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub(crate) use connect::Connector;

use crate::state::{Board, DownReason, Purpose, State};

/// Complaints about a generation that may wait; more are the same complaint again.
const COMPLAINTS: usize = 8;
/// How often the connection is looked at, since lapin does not report every way to be closed.
const LOOK: Duration = Duration::from_millis(200);
/// How long the goodbye to the broker may take.
const GOODBYE: Duration = Duration::from_millis(500);
/// A connection that lived this long was a good one: the pauses start over.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// AMQP 0-9-1: reply code that ends a connection without an error.
const REPLY_SUCCESS: u16 = 200;

/// A connection of one generation.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) generation: u64,
    pub(crate) connection: Connection,
}

/// What users of a link see.
#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    /// Nothing to use.
    Down,
    /// To be used.
    Up(Arc<Live>),
    /// What is in flight may still be answered, but nothing can be written.
    Blocked(Arc<Live>),
}

impl LinkState {
    pub(crate) fn generation(&self) -> Option<u64> {
        match self {
            Self::Down => None,
            Self::Up(live) | Self::Blocked(live) => Some(live.generation),
        }
    }
}

/// A handle on a supervised connection.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) state: watch::Receiver<LinkState>,
    complaints: mpsc::Sender<(u64, String)>,
}

impl Link {
    /// Starts the supervisor. It ends when `stop` is cancelled.
    pub(crate) fn start(connector: Connector, board: Arc<Board>, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let (told, complaints) = mpsc::channel(COMPLAINTS);
        let state = watch::Sender::new(LinkState::Down);
        let link = Self { state: state.subscribe(), complaints: told };
        let purpose = connector.purpose;
        board.set(purpose, State::Down(DownReason::Starting));
        let supervisor = Supervisor { connector, board, purpose, state, complaints, stop, generations: AtomicU64::new(0) };
        tasks.spawn(supervisor.run());
        link
    }

    /// Asks for a new generation. Complaints about an earlier one are passed over.
    pub(crate) fn complain(&self, generation: u64, reason: &str) {
        let _ = self.complaints.try_send((generation, reason.to_owned()));
    }

    /// Waits for a connection that can be written to. `None` after the link was stopped.
    pub(crate) async fn up(&mut self) -> Option<Arc<Live>> {
        let state = self.state.wait_for(|state| matches!(state, LinkState::Up(_))).await.ok()?;
        match &*state {
            LinkState::Up(live) => Some(Arc::clone(live)),
            _ => None,
        }
    }
}

struct Supervisor {
    connector: Connector,
    board: Arc<Board>,
    purpose: Purpose,
    state: watch::Sender<LinkState>,
    complaints: mpsc::Receiver<(u64, String)>,
    stop: CancellationToken,
    generations: AtomicU64,
}

impl Supervisor {
    async fn run(mut self) {
        let stop = self.stop.clone();
        if stop.run_until_cancelled(self.supervise()).await.is_none() {
            self.goodbye().await;
        }
        self.down(DownReason::Stopped);
    }

    async fn supervise(&mut self) {
        let mut pauses = self.pauses().build();
        loop {
            let started = Instant::now();
            let reason = match self.connector.connect().await {
                Ok((connection, place)) => self.watch_over(connection, &place).await,
                Err(reason) => reason,
            };
            warn!(connection = self.purpose.as_str(), %reason, "no connection to the broker, connecting again");
            self.down(reason);
            if started.elapsed() >= GOOD_LIFE {
                pauses = self.pauses().build();
            }
            sleep(pauses.next().unwrap_or(GOOD_LIFE)).await;
        }
    }

    /// The pauses between attempts: doubling, bounded, without end, drawn out by chance so that replicas do not come all at once.
    fn pauses(&self) -> ExponentialBuilder {
        let config = &self.connector.config;
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(config.reconnect_min_ms))
            .with_max_delay(Duration::from_millis(config.reconnect_max_ms))
            .with_jitter()
            .without_max_times()
    }

    /// Publishes the connection as a new generation and returns when it is no good any more.
    async fn watch_over(&mut self, connection: Connection, place: &str) -> DownReason {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let events = connection.events_listener();
        let live = Arc::new(Live { generation, connection });
        self.gauge(0.0);
        self.state.send_replace(LinkState::Up(Arc::clone(&live)));
        self.board.set(self.purpose, State::Up);
        info!(connection = self.purpose.as_str(), generation, place, "connected to the broker");
        let reason = self.life(&live, events).await;
        self.state.send_replace(LinkState::Down);
        close(&live).await;
        DownReason::Lost(reason)
    }

    async fn life(&mut self, live: &Arc<Live>, events: impl Stream<Item = Event>) -> String {
        let mut events = std::pin::pin!(events);
        let mut doomed: Option<String> = None;
        let mut last_error: Option<String> = None;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(words)) => self.blocked(live, &words),
                    Some(Event::ConnectionUnblocked) if doomed.is_none() => self.unblocked(live),
                    Some(Event::Error(error)) => last_error = Some(error.to_string()),
                    Some(_) => {}
                    None => return "the client library stopped".into(),
                },
                Some((generation, reason)) = self.complaints.recv() => {
                    if generation == live.generation {
                        doomed.get_or_insert(reason);
                    }
                }
                () = sleep(LOOK) => {}
            }
            if !live.connection.status().connected() {
                return doomed.or(last_error).unwrap_or_else(|| "closed by the broker".into());
            }
            // A blocked connection cannot even be closed: waiting for the end of the alarm beats piling up half-dead connections.
            if !live.connection.status().blocked()
                && let Some(reason) = doomed.take()
            {
                return reason;
            }
        }
    }

    fn blocked(&self, live: &Arc<Live>, words: &str) {
        warn!(connection = self.purpose.as_str(), reason = words, "the broker takes no publishes");
        self.gauge(1.0);
        self.state.send_replace(LinkState::Blocked(Arc::clone(live)));
        self.board.set(self.purpose, State::Blocked(words.to_owned()));
    }

    fn unblocked(&self, live: &Arc<Live>) {
        info!(connection = self.purpose.as_str(), "the broker takes publishes again");
        self.gauge(0.0);
        self.state.send_replace(LinkState::Up(Arc::clone(live)));
        self.board.set(self.purpose, State::Up);
    }

    fn down(&self, reason: DownReason) {
        self.gauge(0.0);
        self.state.send_replace(LinkState::Down);
        self.board.set(self.purpose, State::Down(reason));
    }

    fn gauge(&self, blocked: f64) {
        metrics::gauge!(names::CONNECTION_BLOCKED, "connection" => self.purpose.as_str()).set(blocked);
    }

    async fn goodbye(&self) {
        let state = self.state.send_replace(LinkState::Down);
        if let LinkState::Up(live) | LinkState::Blocked(live) = state {
            close(&live).await;
        }
    }
}

/// Closes in good order if that goes quickly; the rest ends when the last holder lets go, or by the missing heartbeat.
async fn close(live: &Live) {
    if live.connection.status().connected() {
        let _ = timeout(GOODBYE, live.connection.close(REPLY_SUCCESS, "OK".into())).await;
    }
}
