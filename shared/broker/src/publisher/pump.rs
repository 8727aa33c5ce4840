//! The task that owns the publishing channel.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::ports::broker::{Publication, Published};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Request;
use super::kind::{Kind, Meters};
use super::ledger::{Key, Ledger, Place, Settled};
use super::line::{Line, Ready};
use super::penalty::Penalties;
use super::renewal::{Renewal, Step};
use super::wakes::Wakes;
use crate::config::Config;
use crate::convert;
use crate::link::{Link, LinkState};

/// Publishes started before confirms are looked at again.
const CHUNK: usize = 128;
/// Largest body; brokers of today take no more.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Pause after a channel could not be opened on a connection that seems sound.
const CHANNEL_PAUSE: Duration = Duration::from_millis(100);
/// How often an idle channel is looked at: the broker may close it without a publish.
const LOOK: Duration = Duration::from_secs(1);

struct Waiting {
    place: Place,
    key: Key,
    publication: Publication,
    start_by: Instant,
    expires: Instant,
}

pub(super) struct Pump {
    link: Link,
    incoming: mpsc::Receiver<Request>,
    up: watch::Sender<bool>,
    window: usize,
    connect_timeout: Duration,
    ledger: Ledger,
    waiting: VecDeque<Waiting>,
    line: Option<Line>,
    opening: BoxFuture<'static, Option<Line>>,
    /// Whether what is being opened takes the place of a channel that still worked.
    renewing: bool,
    renewal: Renewal,
    penalties: Penalties,
    meters: Meters,
}

impl Pump {
    pub(super) fn new(config: &Arc<Config>, link: Link, incoming: mpsc::Receiver<Request>, up: watch::Sender<bool>) -> Self {
        let (window, connect_timeout) = (config.publish_window, config.connect_timeout());
        Self {
            opening: open(link.clone(), window, connect_timeout),
            link,
            incoming,
            up,
            window,
            connect_timeout,
            ledger: Ledger::new(window),
            waiting: VecDeque::new(),
            line: None,
            renewing: false,
            renewal: Renewal::new(Instant::now()),
            penalties: Penalties::default(),
            meters: Meters::new(),
        }
    }

    /// Works until `stop`, then until nothing is in flight.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        loop {
            self.look_at_link();
            let more = self.is_to_publish() && self.start_some();
            self.expire();
            self.tell_up();
            if stopping && self.waiting.is_empty() && self.ledger.is_empty() {
                break;
            }
            let room = !stopping && self.waiting.len() < self.window;
            let deadline = self.next_deadline();
            let (attached, wakes) = (self.line.is_some(), self.line.as_ref().map(Line::wakes));
            tokio::select! {
                () = confirms(wakes), if attached => self.take_confirms(),
                Some(request) = self.incoming.recv(), if room => self.take_in(request),
                opened = &mut self.opening, if !attached => self.opened(opened),
                Ok(()) = self.link.state.changed() => {}
                () = sleep(LOOK), if attached => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.incoming.close();
                    while let Ok(request) = self.incoming.try_recv() {
                        self.take_in(request);
                    }
                }
                () = tokio::task::yield_now(), if more => self.take_confirms(),
            }
        }
        self.up.send_replace(false);
    }

    fn take_in(&mut self, request: Request) {
        let Request { publications, start_by, expires, reply } = request;
        let batch = self.ledger.open(publications.len(), reply);
        for (index, publication) in publications.into_iter().enumerate() {
            let key = Key {
                message_id: publication.properties.message_id.clone().unwrap_or_default(),
                exchange: publication.exchange.clone(),
                route: publication.routing_key.clone(),
            };
            self.waiting.push_back(Waiting { place: Place { batch, index }, key, publication, start_by, expires });
        }
    }

    /// Starts what there is room for, a chunk at most. True if there may be more to start at once.
    fn start_some(&mut self) -> bool {
        let now = Instant::now();
        for _ in 0..CHUNK {
            match self.waiting.front() {
                Some(first) if self.ledger.has_room_for(&first.key) && first.start_by > now => {}
                _ => return false,
            }
            let Some(first) = self.waiting.pop_front() else { return false };
            if let Err(error) = self.start(first, now) {
                // What the broker said before it closed the channel comes first.
                self.take_confirms();
                self.lost(&error.to_string(), false);
                return false;
            }
        }
        true
    }

    fn start(&mut self, waiting: Waiting, now: Instant) -> lapin::Result<()> {
        let Waiting { place, key, publication, expires, .. } = waiting;
        let kind = Kind::of(&publication);
        let reason = self.penalties.reason(&key.exchange, now).map(ToOwned::to_owned);
        let ready = reason.map_or_else(|| prepare(publication), Err);
        let ready = match ready {
            Ok(ready) => ready,
            Err(reason) => {
                let answer = Published::Returned { reason };
                self.meters.note(kind, &answer, None);
                self.ledger.answer(place, answer);
                return Ok(());
            }
        };
        let Some(line) = self.line.as_mut() else { return Ok(()) };
        match self.ledger.start(key, place, kind, now, expires) {
            Some(slot) => line.publish(slot, ready),
            None => Ok(()),
        }
    }

    fn take_confirms(&mut self) {
        let Some(line) = self.line.as_mut() else { return };
        let (landed, failed) = line.drain();
        let settled = self.ledger.settle(landed);
        self.note(&settled);
        if let Some(error) = failed {
            self.penalties.learn(&error.to_string(), Instant::now());
            self.lost(&error.to_string(), false);
        }
    }

    /// Answers what has run out of time.
    fn expire(&mut self) {
        let now = Instant::now();
        while self.waiting.front().is_some_and(|first| first.start_by <= now) {
            if let Some(first) = self.waiting.pop_front() {
                self.meters.note(Kind::of(&first.publication), &Published::Unknown, None);
                self.ledger.answer(first.place, Published::Unknown);
            }
        }
        if self.ledger.oldest_expires().is_some_and(|expires| expires <= now) {
            // Perhaps the confirm is there and was not looked at yet.
            self.take_confirms();
            if self.ledger.oldest_expires().is_some_and(|expires| expires <= now) {
                self.lost("the broker did not confirm in time", true);
            }
        }
    }

    /// Gives the channel up: everything on it is unknown. The connection goes with it, unless the broker closed only the channel.
    fn lost(&mut self, reason: &str, silent: bool) {
        let settled = self.ledger.abandon();
        self.note(&settled);
        let Some(line) = self.line.take() else { return };
        warn!(reason, unknown = settled.len(), "the publishing channel is lost");
        let only_the_channel = !silent && line.is_connected() && !line.is_open();
        if !only_the_channel {
            self.link.complain(line.live.generation, reason);
        }
        self.opening = open(self.link.clone(), self.window, self.connect_timeout);
    }

    /// Changes a channel that refuses messages for another one, or holds it back until nothing is in flight on it.
    fn is_to_publish(&mut self) -> bool {
        if !self.can_write() {
            return false;
        }
        match self.renewal.step(Instant::now(), self.ledger.is_empty()) {
            Step::Keep => return true,
            Step::Hold => {}
            Step::Change => {
                if let Some(line) = self.line.take() {
                    info!("the broker refuses messages: they are tried on another channel");
                    self.renewing = true;
                    self.opening = renew(line, self.link.clone(), self.window, self.connect_timeout);
                }
            }
        }
        false
    }

    fn opened(&mut self, line: Option<Line>) {
        self.renewing = false;
        match line {
            Some(line) => {
                self.line = Some(line);
                self.renewal.opened(Instant::now());
            }
            // The link was stopped: nothing will ever be up again.
            None => self.opening = std::future::pending().boxed(),
        }
    }

    fn look_at_link(&mut self) {
        let generation = self.link.state.borrow_and_update().generation();
        let gone = self.line.as_ref().is_some_and(|line| generation != Some(line.live.generation) || !line.is_open());
        if gone {
            self.take_confirms();
            self.lost("the connection went", false);
        }
    }

    fn can_write(&self) -> bool {
        self.line.as_ref().is_some_and(Line::is_open) && self.is_linked()
    }

    fn is_linked(&self) -> bool {
        matches!(&*self.link.state.borrow(), LinkState::Up(_))
    }

    fn tell_up(&self) {
        let can = self.can_write() || (self.renewing && self.is_linked());
        self.up.send_if_modified(|up| std::mem::replace(up, can) != can);
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        let waiting = self.waiting.front().map(|first| first.start_by);
        let held = self.renewal.held_until().filter(|_| self.can_write());
        waiting.into_iter().chain(self.ledger.oldest_expires()).chain(held).min()
    }

    fn note(&mut self, settled: &[Settled]) {
        for Settled { kind, started, answer } in settled {
            if *answer == Published::Nacked {
                self.renewal.refused();
            }
            self.meters.note(*kind, answer, Some(started.elapsed().as_secs_f64()));
        }
    }
}

async fn confirms(wakes: Option<Arc<Wakes>>) {
    match wakes {
        Some(wakes) => wakes.some().await,
        None => std::future::pending().await,
    }
}

/// Opens a channel on the next good connection, however long that takes. `None` after the link was stopped.
fn open(mut link: Link, window: usize, limit: Duration) -> BoxFuture<'static, Option<Line>> {
    async move {
        loop {
            let live = link.up().await?;
            let generation = live.generation;
            match timeout(limit, Line::open(live, window)).await {
                Ok(Ok(opened)) => return Some(opened),
                Ok(Err(error)) => link.complain(generation, &error.to_string()),
                Err(_) => link.complain(generation, "no channel was opened in time"),
            }
            sleep(CHANNEL_PAUSE).await;
        }
    }
    .boxed()
}

/// Closes a channel, and opens another one as [`open`] does.
fn renew(old: Line, link: Link, window: usize, limit: Duration) -> BoxFuture<'static, Option<Line>> {
    async move {
        let generation = old.live.generation;
        match timeout(limit, old.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => link.complain(generation, &error.to_string()),
            Err(_) => link.complain(generation, "no channel was closed in time"),
        }
        open(link, window, limit).await
    }
    .boxed()
}

/// What AMQP cannot carry is turned down here; on the wire it would cost the connection.
fn prepare(publication: Publication) -> Result<Ready, String> {
    let Publication { exchange, routing_key, properties, body } = publication;
    if body.len() > MAX_BODY_BYTES {
        return Err(format!("the body has {} bytes; the broker takes {MAX_BODY_BYTES}", body.len()));
    }
    Ok(Ready {
        exchange: convert::short("exchange", &exchange)?,
        routing_key: convert::short("routing key", &routing_key)?,
        properties: convert::to_amqp(&properties)?,
        body,
    })
}
