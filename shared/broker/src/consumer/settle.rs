//! Acks, requeues and dead-letterings, with as few frames as is safe.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use countersign_delivery::ports::broker::{Handle, Settlement, Settler};
use futures::future::join_all;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::debug;

/// How long an ack waits for others, so that one frame settles them all: each frame is a command of the queue's log.
const LINGER: Duration = Duration::from_millis(5);

type Sending = Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>>;

/// What is unsettled on a consumer's channel.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Option<Open>>);

#[derive(Debug)]
struct Open {
    generation: u64,
    channel: Channel,
    unsettled: BTreeSet<u64>,
}

impl Account {
    pub(super) fn open(&self, generation: u64, channel: Channel) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Open { generation, channel, unsettled: BTreeSet::new() });
    }

    pub(super) fn close(&self, generation: u64) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|open| open.generation == generation) {
            *open = None;
        }
    }

    pub(super) fn received(&self, generation: u64, tag: u64) {
        if let Some(open) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && open.generation == generation
        {
            open.unsettled.insert(tag);
        }
    }

    /// Queues the frames. All under one lock, because a multiple-ack that overtakes another call's settlement would settle that too.
    fn send(&self, handles: &[Handle], settlement: Settlement) -> Vec<Sending> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = guard.as_mut() else { return Vec::new() };
        let current = handles.iter().filter(|handle| handle.generation == open.generation);
        let tags: BTreeSet<u64> = current.map(|handle| handle.tag).filter(|tag| open.unsettled.contains(tag)).collect();
        let frames = frames(&mut open.unsettled, &tags);
        frames.into_iter().filter_map(|frame| start(&open.channel, frame, settlement)).collect()
    }
}

/// One AMQP frame of settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    tag: u64,
    multiple: bool,
}

/// Takes `tags` out of `unsettled`. One multiple frame for the run at the low end that is wholly ours, single frames for the rest.
fn frames(unsettled: &mut BTreeSet<u64>, tags: &BTreeSet<u64>) -> Vec<Frame> {
    let run: Vec<u64> = unsettled.iter().copied().take_while(|tag| tags.contains(tag)).collect();
    let last = run.last().copied();
    let multiple = last.map(|tag| Frame { tag, multiple: run.len() > 1 });
    let singles = tags.iter().filter(|tag| last.is_none_or(|last| **tag > last)).map(|tag| Frame { tag: *tag, multiple: false });
    let frames = multiple.into_iter().chain(singles).collect();
    for tag in tags {
        unsettled.remove(tag);
    }
    frames
}

/// The first poll queues the frame; the rest waits until it is written. `None` if that was quick, or the channel is gone: then the broker
/// puts the messages back.
fn start(channel: &Channel, frame: Frame, settlement: Settlement) -> Option<Sending> {
    let (channel, Frame { tag, multiple }) = (channel.clone(), frame);
    let mut sending: Sending = Box::pin(async move {
        match settlement {
            Settlement::Ack => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
            Settlement::Requeue => channel.basic_nack(tag, BasicNackOptions { multiple, requeue: true }).await,
            Settlement::DeadLetter => channel.basic_nack(tag, BasicNackOptions { multiple, requeue: false }).await,
        }
    });
    match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Some(sending),
        Poll::Ready(Ok(())) => None,
        Poll::Ready(Err(error)) => {
            debug!(%error, "not settled: the channel is gone");
            None
        }
    }
}

/// The settler of one consumer.
#[derive(Debug)]
pub(super) struct Settling {
    account: Arc<Account>,
    /// Longest wait for the frames to be written.
    limit: Duration,
    /// Acks that wait for whoever gathers; none: nobody does.
    gathered: Mutex<Option<Vec<Handle>>>,
    /// So many acks wait for no more.
    enough: usize,
    full: Notify,
}

impl Settling {
    /// Acks of a consumer that may have so many unsettled.
    pub(super) fn new(account: Arc<Account>, prefetch: u16, limit: Duration) -> Self {
        Self { account, limit, gathered: Mutex::default(), enough: usize::from(prefetch / 4), full: Notify::new() }
    }

    /// Whether somebody gathers already, and has these now.
    fn joins(&self, handles: &[Handle]) -> bool {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let others = gathered.is_some();
        let all = gathered.get_or_insert_default();
        all.extend_from_slice(handles);
        if all.len() >= self.enough {
            self.full.notify_waiters();
        }
        others
    }

    /// Waits for others, unless there are enough.
    async fn gather(&self) {
        let full = self.full.notified();
        let has_room = {
            let gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            gathered.as_ref().is_some_and(|handles| handles.len() < self.enough)
        };
        if has_room {
            let _ = timeout(LINGER, full).await;
        }
    }

    /// Queues the frames of what was gathered.
    fn flush(&self) -> Vec<Sending> {
        let gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner).take();
        gathered.map_or_else(Vec::new, |handles| self.account.send(&handles, Settlement::Ack))
    }
}

/// Whoever gathers sends what was gathered, even if it is dropped while it waits.
struct Gathers<'a>(&'a Settling);

impl Drop for Gathers<'_> {
    fn drop(&mut self) {
        drop(self.0.flush());
    }
}

#[async_trait]
impl Settler for Settling {
    async fn settle(&self, handles: &[Handle], settlement: Settlement) {
        let sending = if settlement == Settlement::Ack {
            if self.joins(handles) {
                return;
            }
            let gathers = Gathers(self);
            self.gather().await;
            let sending = self.flush();
            drop(gathers);
            sending
        } else {
            self.account.send(handles, settlement)
        };
        let Ok(written) = timeout(self.limit, join_all(sending)).await else {
            return debug!("settlements are queued, but not written yet");
        };
        if let Some(error) = written.into_iter().find_map(Result::err) {
            debug!(%error, "not settled: the channel is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(tags: &[u64]) -> BTreeSet<u64> {
        tags.iter().copied().collect()
    }

    #[test]
    fn a_multiple_frame_never_reaches_what_is_not_in_the_call() {
        let single = |tag| Frame { tag, multiple: false };
        let upto = |tag| Frame { tag, multiple: true };
        let rows: [(&[u64], &[u64], Vec<Frame>); 6] = [
            (&[1, 2, 3, 4], &[1, 2, 3], vec![upto(3)]),
            (&[1, 2, 3, 4], &[2, 3], vec![single(2), single(3)]),
            (&[1, 2, 3, 4, 5], &[1, 2, 4], vec![upto(2), single(4)]),
            (&[3, 7, 9], &[3, 7, 9], vec![upto(9)]),
            (&[3, 7], &[3], vec![single(3)]),
            (&[5], &[], vec![]),
        ];
        for (unsettled, tags, expected) in rows {
            let mut left = set(unsettled);
            assert_eq!(frames(&mut left, &set(tags)), expected, "{unsettled:?} {tags:?}");
            assert_eq!(left, &set(unsettled) - &set(tags));
        }
    }
}
