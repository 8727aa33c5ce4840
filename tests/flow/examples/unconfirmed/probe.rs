//! Sends messages singly at a steady pace, and notes how long each took until it was confirmed.

use std::time::Duration;

use anyhow::Context as _;
use countersign_wire::proto::{SendMessageRequest, SendState};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::installation::Upstream;
use crate::{Options, message};

/// Sends until it is told to end.
#[derive(Debug)]
pub struct Probe {
    end: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<Latencies>>,
}

/// What single sends took, milliseconds.
#[derive(Debug, Default)]
pub struct Latencies {
    confirmed: Vec<f64>,
    /// Stored, but not confirmed in time.
    committed: u32,
}

/// Two percentiles, milliseconds, and what was not confirmed within upstream's `confirm_wait_ms`.
#[derive(Clone, Copy, Debug)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub unconfirmed: f64,
}

impl Probe {
    pub fn start(upstream: &Upstream, options: &Options) -> Self {
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(send(upstream.clone(), options.clone(), ended));
        Self { end, task }
    }

    /// Waits for the answers to all that was sent.
    pub async fn end(self) -> anyhow::Result<Latencies> {
        // A task that has ended before says why.
        let _ = self.end.send(());
        self.task.await.context("single sends")?
    }
}

async fn send(upstream: Upstream, options: Options, mut ended: oneshot::Receiver<()>) -> anyhow::Result<Latencies> {
    let client = upstream.client().await?;
    let mut ticks = interval(Duration::from_secs(1) / options.sends_per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut calls, mut latencies) = (JoinSet::new(), Latencies::default());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut ended => break,
        }
        let (mut client, message) = (client.clone(), message(options.body_bytes));
        calls.spawn(async move {
            let began = Instant::now();
            let answer = client.send_message(SendMessageRequest { message: Some(message) }).await?;
            let accepted = answer.into_inner().accepted.context("no result")?;
            anyhow::Ok((accepted.state() == SendState::Confirmed, began.elapsed()))
        });
        while let Some(answer) = calls.try_join_next() {
            latencies.note(answer??);
        }
    }
    while let Some(answer) = calls.join_next().await {
        latencies.note(answer??);
    }
    Ok(latencies)
}

impl Latencies {
    fn note(&mut self, (confirmed, took): (bool, Duration)) {
        if confirmed {
            self.confirmed.push(took.as_secs_f64() * 1_000.0);
        } else {
            self.committed += 1;
        }
    }

    /// How many were accepted.
    pub fn count(&self) -> u32 {
        u32::try_from(self.confirmed.len()).unwrap_or(u32::MAX) + self.committed
    }

    pub fn percentiles(mut self) -> Percentiles {
        self.confirmed.sort_by(f64::total_cmp);
        let at = |part: usize| {
            let index = self.confirmed.len() * part / 100;
            self.confirmed.get(index.min(self.confirmed.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Percentiles { p50: at(50), p99: at(99), unconfirmed: self.committed.into() }
    }
}
