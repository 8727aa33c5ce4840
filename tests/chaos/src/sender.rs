//! Callers under load: each message under its own idempotency key, asked for at either upstream until one of them answers.

use std::time::Duration;

use anyhow::bail;
use countersign_launcher::{EXCHANGE, Which};
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{NewMessage, SendMessagesRequest, SendResult};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::stage::Stage;
use crate::tally::Tally;

/// Callers at a time.
pub const CALLERS: u64 = 6;
/// Between two sends of one caller.
const PACE: Duration = Duration::from_millis(150);
/// How long one call may take; a paused upstream answers nothing.
const CALL: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(1);
/// How long both upstreams together may take to accept a message. Both may be dead for a moment; beyond this the system is not available.
const PATIENCE: Duration = Duration::from_mins(2);
/// Pause after a call without an answer.
const AGAIN: Duration = Duration::from_millis(50);
/// Messages of a batch.
const BATCH: std::ops::RangeInclusive<u64> = 2..=10;
/// How long a caller waits who hangs up, milliseconds: about as long as a commit takes.
const HANG_UP_MS: std::ops::RangeInclusive<u64> = 1..=25;

/// What a caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// One message, or a batch; asks until it is answered.
    Send(u64),
    /// Does not wait for the answer, and never asks again.
    HangUp,
    /// Asks the other upstream once more for what was answered.
    AskAgain,
    /// Another content under a known key.
    Conflict,
    /// Nobody wants it.
    NoSubscription,
}

impl Wish {
    /// In hundredths: most are sends.
    fn of(hundredth: u64, batch: u64) -> Self {
        match hundredth {
            0..60 => Self::Send(1),
            60..80 => Self::Send(batch),
            80..88 => Self::HangUp,
            88..94 => Self::AskAgain,
            94..97 => Self::Conflict,
            _ => Self::NoSubscription,
        }
    }
}

/// One caller.
struct Caller<'a> {
    name: u64,
    next: u64,
    random: fastrand::Rng,
    upstreams: [UpstreamServiceClient<Channel>; 2],
    tally: &'a Tally,
}

/// Sends until the faults are over, and finishes what it has begun.
///
/// # Errors
/// When no upstream answers within [`PATIENCE`].
pub async fn send(stage: &Stage, name: u64, seed: u64, tally: &Tally) -> anyhow::Result<()> {
    let upstream = |which| {
        let endpoint = Endpoint::from_shared(stage.grpc_url(which))?.connect_timeout(CONNECT).timeout(CALL);
        anyhow::Ok(UpstreamServiceClient::new(endpoint.connect_lazy()))
    };
    let upstreams = [upstream(Which::UPSTREAMS[0])?, upstream(Which::UPSTREAMS[1])?];
    let random = fastrand::Rng::with_seed(seed);
    let mut caller = Caller { name, next: 0, random, upstreams, tally };
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answered = Vec::new();
    while !tally.is_over() {
        ticks.tick().await;
        let wish = Wish::of(caller.random.u64(0..100), caller.random.u64(BATCH));
        match (wish, answered.last().cloned()) {
            (Wish::Send(count), _) => answered = caller.until_answered(count).await?,
            (Wish::HangUp, _) => caller.hang_up().await,
            (Wish::AskAgain, Some(message)) => drop(caller.insist(vec![message]).await?),
            (Wish::Conflict, Some(message)) => caller.conflict(message).await?,
            (Wish::NoSubscription, _) => caller.no_subscription().await?,
            (Wish::AskAgain | Wish::Conflict, None) => {}
        }
    }
    Ok(())
}

impl Caller<'_> {
    fn message(&mut self) -> NewMessage {
        self.next += 1;
        let key = format!("{}-{}", self.name, self.next);
        NewMessage {
            exchange: EXCHANGE.into(),
            routing_key: "order.created".into(),
            r#type: "order.created".into(),
            content_type: "application/json".into(),
            body: format!("{{\"order\":\"{key}\"}}").into(),
            idempotency_key: key,
            ..NewMessage::default()
        }
    }

    /// New messages in one batch; returns them when each was answered.
    async fn until_answered(&mut self, count: u64) -> anyhow::Result<Vec<NewMessage>> {
        let messages: Vec<_> = (0..count).map(|_| self.message()).collect();
        self.insist(messages).await
    }

    /// Asks one upstream and then the other until each message is answered.
    async fn insist(&mut self, messages: Vec<NewMessage>) -> anyhow::Result<Vec<NewMessage>> {
        let began = Instant::now();
        let mut open = messages.clone();
        let mut turn = self.random.usize(0..2);
        while !open.is_empty() {
            let results = self.ask(turn, &open).await;
            let answers = results.into_iter().chain(std::iter::repeat(None));
            open = open
                .into_iter()
                .zip(answers)
                .filter(|(message, answer)| !self.note(message, answer.as_ref()))
                .map(|(m, _)| m)
                .collect();
            if open.is_empty() {
                break;
            }
            if began.elapsed() > PATIENCE {
                bail!("neither upstream took {:?} within {PATIENCE:?}", open[0].idempotency_key);
            }
            turn = 1 - turn;
            sleep(AGAIN).await;
        }
        Ok(messages)
    }

    /// Sends and is gone before the answer comes, or just after.
    async fn hang_up(&mut self) {
        let messages = vec![self.message()];
        let turn = self.random.usize(0..2);
        let waits = Duration::from_millis(self.random.u64(HANG_UP_MS));
        let answer = timeout(waits, self.ask(turn, &messages)).await.unwrap_or_default().pop().flatten();
        self.note(&messages[0], answer.as_ref());
    }

    /// The same key with another body must be refused, and never handled.
    async fn conflict(&mut self, mut message: NewMessage) -> anyhow::Result<()> {
        message.body = format!("{{\"conflict\":\"{}-{}\"}}", self.name, self.next).into();
        self.must_be_refused(message, Code::AlreadyExists).await
    }

    /// What nobody has subscribed to must be refused, and never handled.
    async fn no_subscription(&mut self) -> anyhow::Result<()> {
        let mut message = self.message();
        message.routing_key = "nobody.wants.it".into();
        self.must_be_refused(message, Code::FailedPrecondition).await
    }

    async fn must_be_refused(&mut self, message: NewMessage, wanted: Code) -> anyhow::Result<()> {
        let (began, key, body) = (Instant::now(), message.idempotency_key.clone(), text(&message));
        self.tally.history().refused.insert(body.clone());
        let mut turn = self.random.usize(0..2);
        loop {
            match self.ask(turn, std::slice::from_ref(&message)).await.pop().flatten() {
                Some(Sent::Refused(refused)) if Code::from(refused.code) == wanted => return Ok(()),
                Some(Sent::Accepted(accepted)) => {
                    let words = format!("{body} under key {key} was accepted as {}, not refused: {wanted:?}", accepted.id);
                    self.tally.history().wrong_answers.push(words);
                    return Ok(());
                }
                _ if began.elapsed() > PATIENCE => bail!("neither upstream refused {key:?} within {PATIENCE:?}"),
                _ => sleep(AGAIN).await,
            }
            turn = 1 - turn;
        }
    }

    /// One call; empty when it brought no answer.
    async fn ask(&mut self, turn: usize, messages: &[NewMessage]) -> Vec<Option<Sent>> {
        // Counted before: whoever hangs up leaves a message behind that may have been stored.
        for message in messages.iter().filter(|message| message.routing_key.starts_with("order.")) {
            if !self.tally.history().refused.contains(&text(message)) {
                self.tally.history().sent.entry(text(message)).or_default();
            }
        }
        let request = SendMessagesRequest { messages: messages.to_vec() };
        match timeout(CALL, self.upstreams[turn].send_messages(request)).await {
            Ok(Ok(answer)) => answer.into_inner().results.into_iter().map(|SendResult { result }| result).collect(),
            _ => Vec::new(),
        }
    }

    /// Writes an answer into the book; whether there was one.
    fn note(&self, message: &NewMessage, answer: Option<&Sent>) -> bool {
        let mut history = self.tally.history();
        let record = history.sent.entry(text(message)).or_default();
        if let Some(Sent::Accepted(accepted)) = answer {
            record.ids.insert(accepted.id.clone());
            record.answers += 1;
            return true;
        }
        record.errors += 1;
        if let Some(Sent::Refused(refused)) = answer
            && matches!(Code::from(refused.code), Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition)
        {
            history.wrong_answers.push(format!("{} was refused: {}", text(message), refused.message));
            return true;
        }
        false
    }
}

fn text(message: &NewMessage) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_does_everything_and_mostly_sends() {
        let wishes: Vec<_> = (0..100).map(|hundredth| Wish::of(hundredth, 4)).collect();
        let count = |wanted| wishes.iter().filter(|wish| **wish == wanted).count();
        let rows = [(Wish::Send(1), 60), (Wish::Send(4), 20), (Wish::HangUp, 8), (Wish::AskAgain, 6), (Wish::Conflict, 3)];
        for (wish, wanted) in rows {
            assert_eq!(count(wish), wanted, "{wish:?}");
        }
        assert_eq!(count(Wish::NoSubscription), 3);
    }
}
