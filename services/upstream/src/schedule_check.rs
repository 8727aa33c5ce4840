//! Step 2: publish the delayed check
//!
//! One delayed message covers many messages; callback gets it when the delay has passed, and looks for receipts.
//!
//! It is published after its message's **confirm**, not merely after the message was handed over. Both keep the rule that a check is
//! published no earlier than its message. But a message may be refused for minutes (a full queue is a use of the system, not an
//! accident), and each of its tries would bring a check that finds no receipt, probes the queue and orders a resend, just when the
//! queue has no room. So a check exists only for what the broker has. The price is one confirm more until the caller reads
//! `CONFIRMED`; downstream does not wait for it, and batches overlap.
//!
//! What can fail: the confirm of the check. Then its messages stay unsettled and get another check later, while this process lives;
//! after its death the adopter publishes message and check.

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::check::{Check, CheckBatch};
use countersign_delivery::ports::broker::Published;
use countersign_telemetry::{failed, names, propagate};
use countersign_wire::{checks, publication};
use tracing::Span;

use crate::check_queue::{Done, Scheduled};
use crate::desk::Desk;
use crate::ledger::{Again, What};
use crate::publish::note_unconfirmed;

/// What became of a batch of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The broker has it: its messages are settled.
    Confirmed,
    /// The broker does not have it, or may not: its messages get another one.
    NotConfirmed,
}

/// Publishes one batch of checks, whose messages are confirmed, and awaits its confirm.
pub(crate) async fn schedule_checks(desk: &Desk, batch: Vec<Scheduled>) -> Outcome {
    // Gather.
    let queue = desk.topology.check_tier_queue(desk.topology.checks.check_delay_ms);
    let id = desk.ids.uuid().to_string();
    let spans: Vec<Span> = batch.iter().map(|scheduled| span(&scheduled.check, &queue, batch.len())).collect();

    // Decide: one publication for all of them.
    let (checks, done): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|Scheduled { check, done, bytes }| (check, (done, bytes))).unzip();
    let batch = CheckBatch { upstream: desk.config.name.clone(), checks };
    let publication = publication::to_queue(queue, id, checks::encode(&batch));

    // Act.
    let published = desk.publisher.publish(vec![publication]).await;
    note_unconfirmed("check", &published);
    if published.first() != Some(&Published::Confirmed) {
        for span in &spans {
            failed(span, "not_confirmed");
        }
    }
    drop(spans);
    if published.first() == Some(&Published::Confirmed) {
        failpoint(Failpoint::UpstreamAfterCheckConfirm);
        confirmed(done);
        Outcome::Confirmed
    } else {
        not_confirmed(desk, done);
        Outcome::NotConfirmed
    }
}

fn confirmed(done: Vec<(Done, usize)>) {
    for (done, _) in done {
        match done {
            Done::Settle(ledger, seq) => ledger.settle(seq),
            // Whoever ordered it may have stopped waiting.
            Done::Answer(answer) => drop(answer.send(true)),
        }
    }
}

fn not_confirmed(desk: &Desk, done: Vec<(Done, usize)>) {
    for (done, bytes) in done {
        match done {
            Done::Settle(ledger, seq) => {
                ledger.defer(seq, Again { what: What::Check, bytes }, true, |tries| desk.republish_at(tries));
            }
            Done::Answer(answer) => drop(answer.send(false)),
        }
    }
}

/// One span a message, in the message's own trace; none for messages without one.
fn span(check: &Check, queue: &str, count: usize) -> Span {
    let Some(trace) = &check.trace else { return Span::none() };
    let span = tracing::info_span!(
        names::SPAN_SCHEDULE_CHECK,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_SCHEDULE_CHECK, queue),
        { names::OTEL_KIND } = names::PRODUCER,
        { names::STEP } = "2",
        { names::MESSAGING_SYSTEM } = names::RABBITMQ,
        { names::MESSAGING_OPERATION_TYPE } = names::SEND,
        { names::MESSAGING_OPERATION_NAME } = names::SPAN_SCHEDULE_CHECK,
        { names::MESSAGING_DESTINATION } = queue,
        { names::MESSAGING_MESSAGE_ID } = %check.message_id,
        { names::MESSAGING_BATCH_COUNT } = names::int(count),
        { names::ATTEMPT } = names::int(check.attempt.number),
        { names::EPOCH } = names::int(check.attempt.epoch),
        { names::ERROR_TYPE } = tracing::field::Empty,
        { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
    );
    if !span.is_disabled() {
        propagate::set_parent(&span, &trace.traceparent, trace.tracestate.as_deref());
    }
    span
}
