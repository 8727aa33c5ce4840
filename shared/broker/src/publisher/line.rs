//! One publishing channel of one generation: starts publishes in order, and finds the confirms that have come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};

use super::ledger::{Key, Landed};
use super::wakes::Wakes;
use crate::link::Live;

type Flying = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// A publication that AMQP can carry.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// The channel and its unfinished confirms. Dropped as a whole, with the channel: no confirm is ever dropped alone.
pub(super) struct Line {
    pub(super) live: Arc<Live>,
    channel: Arc<Channel>,
    flying: Vec<Option<Flying>>,
    wakes: Arc<Wakes>,
    signals: Vec<Waker>,
    woken: Vec<usize>,
}

impl Line {
    /// Opens a channel in confirm mode.
    pub(super) async fn open(live: Arc<Live>, window: usize) -> lapin::Result<Self> {
        let channel = live.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let wakes = Arc::new(Wakes::default());
        let signals = wakes.signals(window);
        let flying = (0..window).map(|_| None).collect();
        Ok(Self { live, channel: Arc::new(channel), flying, wakes, signals, woken: Vec::new() })
    }

    /// Whether the channel can still be used.
    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Whether the connection can: if so, only the channel was closed.
    pub(super) fn is_connected(&self) -> bool {
        self.live.connection.status().connected()
    }

    /// Closes the channel, on which nothing may be in flight.
    ///
    /// # Errors
    /// When the channel is gone.
    pub(super) async fn close(self) -> lapin::Result<()> {
        self.channel.close(200, "another one is opened".into()).await
    }

    /// Hands a publication to the connection. Delivery tags follow the order of these calls, because the first poll takes the tag and
    /// queues the frames in one go, and there is one caller.
    ///
    /// # Errors
    /// When the channel is gone.
    pub(super) fn publish(&mut self, slot: usize, ready: Ready) -> lapin::Result<()> {
        let channel = Arc::clone(&self.channel);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let flying = async move {
            let Ready { exchange, routing_key, properties, body } = ready;
            channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await
        };
        self.flying[slot] = Some(Box::pin(flying));
        match self.poll(slot) {
            Some(Err(error)) => Err(error),
            // It cannot have been confirmed before it was written; if it were, the next round would find it.
            Some(Ok(confirmation)) => {
                self.flying[slot] = Some(Box::pin(std::future::ready(Ok(confirmation))));
                self.signals[slot].wake_by_ref();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Tells when confirms may have come.
    pub(super) fn wakes(&self) -> Arc<Wakes> {
        Arc::clone(&self.wakes)
    }

    /// Every confirm that has come by now, and the error that ended the channel, if one did.
    pub(super) fn drain(&mut self) -> (Vec<Landed>, Option<lapin::Error>) {
        let (mut landed, mut failed) = (Vec::new(), None);
        let mut woken = std::mem::take(&mut self.woken);
        loop {
            self.wakes.take(&mut woken);
            if woken.is_empty() {
                self.woken = woken;
                return (landed, failed);
            }
            for slot in woken.drain(..) {
                match self.poll(slot) {
                    Some(Ok(confirmation)) => landed.push(land(slot, confirmation)),
                    Some(Err(error)) => failed = failed.or(Some(error)),
                    None => {}
                }
            }
        }
    }

    fn poll(&mut self, slot: usize) -> Option<lapin::Result<Confirmation>> {
        let flying = self.flying[slot].as_mut()?;
        match flying.as_mut().poll(&mut Context::from_waker(&self.signals[slot])) {
            Poll::Ready(result) => {
                self.flying[slot] = None;
                Some(result)
            }
            Poll::Pending => None,
        }
    }
}

fn land(slot: usize, confirmation: Confirmation) -> Landed {
    let positive = confirmation.is_ack();
    let carried = confirmation.take_message().map(|message| {
        let key = Key {
            message_id: message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default(),
            exchange: message.exchange.to_string(),
            route: message.routing_key.to_string(),
        };
        (key, format!("{} {}", message.reply_code, message.reply_text))
    });
    Landed { slot, positive, carried }
}
