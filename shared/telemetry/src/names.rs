//! Every span, attribute and metric name of Countersign.
//!
//! The names of the messaging conventions of `OpenTelemetry` are still in development and will change; they change here
//! only. As those say, a span about messages is called by its operation and its destination (`send orders`,
//! `process inventory.orders`, both from small sets), and the operation alone is in [`MESSAGING_OPERATION_NAME`]. The
//! destination of who sends is the exchange, or the queue behind the default exchange; of who takes, the queue. The routing
//! key has an attribute of its own and is in no name, for it may be one of many. Use the constants in macros:
//!
//! ```
//! use countersign_telemetry::names;
//!
//! let span = tracing::info_span!(
//!     names::SPAN_SEND,
//!     { names::OTEL_NAME } = %names::span_name(names::SPAN_SEND, "orders"),
//!     { names::OTEL_KIND } = names::PRODUCER,
//!     { names::MESSAGING_OPERATION_NAME } = names::SPAN_SEND,
//!     { names::MESSAGING_DESTINATION } = "orders",
//! );
//! metrics::counter!(names::PUBLISH_TOTAL, "kind" => "message", "outcome" => "confirmed").increment(1);
//! # drop(span);
//! ```
//!
//! **Invariant:** no id is ever a label of a metric; ids belong on spans.

use metrics::Unit;

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $value;)*
    };
}

texts! {
    /// Span of upstream's gRPC and HTTP calls that accept messages. SERVER.
    SPAN_ACCEPT = "accept";
    /// Step 1: one message is stored, published and confirmed. PRODUCER; its context travels in the message.
    SPAN_SEND = "send";
    /// Step 2: the delayed check of a message is published. PRODUCER, child of `send` or `resend`.
    SPAN_SCHEDULE_CHECK = "schedule_check";
    /// Step 3: one message is claimed, handled and completed. CONSUMER, child of `send` or `resend`.
    SPAN_PROCESS = "process";
    /// Step 3, inside `process`: the handler alone.
    SPAN_HANDLE = "handle";
    /// Step 4: the receipt of a message is published. PRODUCER, child of `process`.
    SPAN_ACKNOWLEDGE = "acknowledge";
    /// Step 5: the receipt of one message is written down. CONSUMER, child of `acknowledge`.
    SPAN_RECORD = "record";
    /// Step 6: a due check is judged. CONSUMER; a new trace, linked to the `send` or `resend` it looks after.
    SPAN_CHECK = "check";
    /// Step 7a: upstream is told to send messages again. CLIENT, child of `check`, linked to what their checks looked after.
    SPAN_COMMAND_RESEND = "command_resend";
    /// Step 7b: a message is published again. PRODUCER, child of the first `send`, linked to it and to `command_resend`.
    SPAN_RESEND = "resend";
    /// Upstream takes over what a stopped process left behind. INTERNAL; a trace of its own.
    SPAN_ADOPT = "adopt";
    /// Callback publishes a probe. PRODUCER; a trace of its own.
    SPAN_PROBE = "probe";
    /// Callback compares what one upstream stored with what was signed for. INTERNAL; a trace of its own.
    SPAN_RECONCILE = "reconcile";

    /// Field that tracing's bridge reads as the span's name, when it is known only at run time.
    OTEL_NAME = "otel.name";
    /// Field that tracing's bridge reads as the span's kind; a value is one of the five kinds below.
    OTEL_KIND = "otel.kind";
    /// Field that tracing's bridge reads as the span's status: `OK` or `ERROR`.
    OTEL_STATUS_CODE = "otel.status_code";
    /// Field that tracing's bridge reads as the words to the status, which becomes `ERROR`; see [`crate::failed`].
    OTEL_STATUS_DESCRIPTION = "otel.status_description";
    /// Kind of a span that sends a message.
    PRODUCER = "producer";
    /// Kind of a span that takes a message.
    CONSUMER = "consumer";
    /// Kind of a span that calls another service.
    CLIENT = "client";
    /// Kind of a span that answers a call.
    SERVER = "server";
    /// Kind of a span within one process.
    INTERNAL = "internal";

    /// The messaging system; always [`RABBITMQ`].
    MESSAGING_SYSTEM = "messaging.system";
    /// Value of [`MESSAGING_SYSTEM`].
    RABBITMQ = "rabbitmq";
    /// [`SEND`] or [`PROCESS`].
    MESSAGING_OPERATION_TYPE = "messaging.operation.type";
    /// Value of [`MESSAGING_OPERATION_TYPE`]: a message is handed to the broker.
    SEND = "send";
    /// Value of [`MESSAGING_OPERATION_TYPE`]: a message is taken and worked on.
    PROCESS = "process";
    /// The operation in our own words: one of the names above.
    MESSAGING_OPERATION_NAME = "messaging.operation.name";
    /// Who sends: the exchange, or the queue when the default exchange is used. Who takes: the exchange it was published to, or the queue.
    MESSAGING_DESTINATION = "messaging.destination.name";
    /// The queue a message was taken from.
    MESSAGING_SUBSCRIPTION = "messaging.destination.subscription.name";
    /// The routing key.
    MESSAGING_ROUTING_KEY = "messaging.rabbitmq.destination.routing_key";
    /// The id of the message.
    MESSAGING_MESSAGE_ID = "messaging.message.id";
    /// Bytes of the body.
    MESSAGING_BODY_SIZE = "messaging.message.body.size";
    /// Messages in a batch.
    MESSAGING_BATCH_COUNT = "messaging.batch.message_count";
    /// The type of an error, from a small set.
    ERROR_TYPE = "error.type";

    /// The step of the flow: `1` to `6`, `7a`, `7b`.
    STEP = "countersign.step";
    /// 1 for the first send, one more for each resend.
    ATTEMPT = "countersign.attempt";
    /// One more each time an operator redrives.
    EPOCH = "countersign.epoch";
    /// The name of the sending upstream.
    UPSTREAM = "countersign.upstream";
    /// What a step came to, in the words of its `Outcome`.
    OUTCOME = "countersign.outcome";
    /// The number of a probe in its lane.
    PROBE = "countersign.probe";
    /// What callback decided: `verified`, `stale`, `wait`, `resend` or `park`.
    VERDICT = "countersign.verdict";
    /// Why something was refused, parked or sent again.
    REASON = "countersign.reason";
}

/// What a span about messages is called: by its operation, and by where they go to or come from.
#[must_use]
pub fn span_name(operation: &str, destination: &str) -> String {
    format!("{operation} {destination}")
}

/// A number as an attribute: tracing's bridge makes text of unsigned ones.
#[must_use]
pub fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// How a metric is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, in seconds.
    Histogram,
}

/// A service that exposes metrics; also one that embeds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Stores and publishes.
    Upstream,
    /// Delivers and signs.
    Downstream,
    /// Records receipts and judges checks.
    Callback,
}

impl Service {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
            Self::Callback => "callback",
        }
    }
}

/// One metric: its full name, how it is recorded, who exposes it, its label names and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Full Prometheus name.
    pub name: &'static str,
    /// How it is recorded.
    pub kind: Kind,
    /// Who exposes it.
    pub services: &'static [Service],
    /// Names of its labels; never an id.
    pub labels: &'static [&'static str],
    /// What it says, for people.
    pub help: &'static str,
}

macro_rules! metrics_list {
    ($($kind:ident $constant:ident = $name:literal [$($service:ident)*] [$($label:literal),*] $help:literal;)*) => {
        $(#[allow(clippy::doc_markdown, reason = "the same words are shown by a scrape, where backticks would be odd")]
        #[doc = $help] #[doc = concat!("\n\nLabels: `", stringify!([$($label),*]), "`.")] pub const $constant: &str = $name;)*
        /// Every metric of Countersign.
        pub const METRICS: &[Metric] = &[
            $(Metric {
                name: $name, kind: Kind::$kind, services: &[$(Service::$service),*], labels: &[$($label),*], help: $help
            },)*
        ];
    };
}

metrics_list! {
    Counter PUBLISH_TOTAL = "countersign_publish_total" [Upstream Downstream Callback] ["kind", "outcome"]
        "Publishes by kind (message, check, canary, receipt, probe, retry, dead, event, act) and outcome (confirmed, nacked, returned, unknown).";
    Histogram PUBLISH_CONFIRM_DURATION_SECONDS = "countersign_publish_confirm_duration_seconds" [Upstream Downstream Callback] ["kind"]
        "Seconds from a publish to its confirm.";
    Counter REFUSED_TOTAL = "countersign_refused_total" [Upstream] ["reason"]
        "Messages that upstream refused, by reason: the words of its refusals, such as exhausted or full.";
    Counter STORED_TOTAL = "countersign_stored_total" [Upstream] ["mode"]
        "Messages whose row was committed, by the mode of their route (verified, outbox).";
    Counter SETTLED_TOTAL = "countersign_settled_total" [Upstream] ["mode"]
        "Stored messages that the broker has confirmed, and in mode verified their checks too, by mode (verified, outbox).";
    Gauge UNCONFIRMED_MESSAGES = "countersign_unconfirmed_messages" [Upstream] []
        "Messages that are stored and not yet settled: message and check confirmed.";
    Gauge WATERMARK_LAG_SECONDS = "countersign_watermark_lag_seconds" [Upstream] []
        "Age in seconds of the oldest message that is not settled.";
    Gauge CLOCK_SKEW_SECONDS = "countersign_clock_skew_seconds" [Upstream] []
        "How far upstream's clock was ahead of its database's when it opened its last incarnation, seconds; below 0: behind.";
    Counter RETENTION_DELETED_TOTAL = "countersign_retention_deleted_total" [Upstream] []
        "Rows of settled messages that upstream deleted after their retention.";
    Counter OUTBOX_SWEPT_TOTAL = "countersign_outbox_swept_total" [Upstream] []
        "Rows of mode outbox that were due and published again.";
    Counter OUTBOX_FAILED_TOTAL = "countersign_outbox_failed_total" [Upstream] []
        "Rows of mode outbox that the broker refused too often.";
    Gauge OUTBOX_FAILED_ROWS = "countersign_outbox_failed_rows" [Upstream] []
        "Rows of mode outbox that wait for a human, counted up to 10,000; every replica says the same.";
    Gauge CONNECTION_BLOCKED = "countersign_connection_blocked" [Upstream Downstream Callback] ["connection"]
        "1 while the broker blocks this connection.";
    Counter CONSUME_TOTAL = "countersign_consume_total" [Downstream] ["subscription", "outcome"]
        "Deliveries of messages, by what became of them: done and done_before, retrying and put_back, suspect, claims_away, given_up, or the reason of a failure.";
    Histogram HANDLER_DURATION_SECONDS = "countersign_handler_duration_seconds" [Downstream] ["subscription"]
        "Seconds that the handler took.";
    Gauge BREAKER_OPEN = "countersign_breaker_open" [Downstream] ["subscription"]
        "1 while messages wait because their endpoint fails again and again.";
    Gauge SUBSCRIPTION_PAUSED = "countersign_subscription_paused" [Downstream] ["subscription"]
        "1 while an operator has paused this subscription.";
    Counter DEDUP_TOTAL = "countersign_dedup_total" [Downstream] ["result"]
        "Claims by result (fresh, own, forgotten, done, conflict, held, unknown).";
    Counter INBOX_RECOGNISED_TOTAL = "countersign_inbox_recognised_total" [Downstream] ["subscription"]
        "Messages that came again and whose claims no longer knew them; the database did, so there was no second effect.";
    Counter INBOX_FORGOTTEN_TOTAL = "countersign_inbox_forgotten_total" [Downstream] ["subscription"]
        "Rows of done messages that downstream deleted after their retention.";
    Counter REDIS_ROUND_TRIPS_TOTAL = "countersign_redis_round_trips_total" [Downstream] ["call"]
        "Round trips to Redis, those that failed too, by call (claim, renew, complete, release, other).";
    Counter CLAIMS_AWAY_TOTAL = "countersign_claims_away_total" [Downstream] ["reason"]
        "How often claims could no longer be made, by reason (unreachable, timeout, dropped, oom, readonly, misconf, loading, auth, permission, clients, other).";
    Gauge REDIS_EVICTS = "countersign_redis_evicts" [Downstream] []
        "1 while a full Redis would forget what has been done instead of refusing, else 0.";
    Counter RECEIPTS_TOTAL = "countersign_receipts_total" [Callback] ["outcome"]
        "Receipts recorded, by outcome (done, failed, retrying, processing, conflict).";
    Counter CHECKS_TOTAL = "countersign_checks_total" [Callback] ["verdict"]
        "Checks judged, one for each message and subscription, by verdict (verified, stale, wait, resend, park).";
    Counter CANARY_SENT_TOTAL = "countersign_canary_sent_total" [Callback] ["delay_ms"]
        "Canaries that the broker has taken into the check tier of this delay.";
    Counter CANARY_RETURNED_TOTAL = "countersign_canary_returned_total" [Callback] ["delay_ms"]
        "Canaries of this check tier that came due and reached a callback, whoever sent them.";
    Gauge CANARY_DUE_TIMESTAMP_SECONDS = "countersign_canary_due_timestamp_seconds" [Callback] ["delay_ms"]
        "Until when this check tier is known to work: when the newest canary that came back here was due, at first when one could be, seconds since the Unix epoch.";
    Histogram CANARY_DELAY_SECONDS = "countersign_canary_delay_seconds" [Callback] ["delay_ms"]
        "Seconds that canaries of this check tier came later than they were due.";
    Gauge TOPOLOGY_PROBLEMS = "countersign_topology_problems" [Callback] []
        "Exchanges and queues of the topology that were missing when callback last looked, at every connection and once a minute.";
    Counter RESENDS_TOTAL = "countersign_resends_total" [Upstream] ["outcome"]
        "Orders to resend that upstream carried out or could not, by its answer (resent, not_confirmed, unknown_id, changed, gone).";
    Counter RESEND_ORDERS_TOTAL = "countersign_resend_orders_total" [Callback] ["outcome"]
        "Orders to resend, by what upstream answered (resent, not_confirmed, unknown_id, changed, gone) or why it did not (call_failed, under_way, breaker_open, busy, rate_limited).";
    Gauge DELIVERIES = "countersign_deliveries" [Callback] ["state"]
        "Deliveries that are not done, by state (processing, retrying, failed, resending, resent, parked, discarded), each counted up to 10,000; every replica says the same.";
    Counter POSSIBLE_DUPLICATES_TOTAL = "countersign_possible_duplicates_total" [Downstream] ["subscription"]
        "Effects that may have happened once more than they should.";
    Counter PROBES_TOTAL = "countersign_probes_total" [Callback] ["outcome"]
        "Probes, by outcome (sent, signed, replaced, not_published).";
    Gauge PARKED_MESSAGES = "countersign_parked_messages" [Callback] ["reason"]
        "Deliveries that are parked, by reason, counted up to 10,000; every replica says the same.";
    Counter PARKED_TOTAL = "countersign_parked_total" [Callback] ["reason"]
        "Deliveries that callback left for a human, by reason.";
    Counter DEAD_LETTERS_TOTAL = "countersign_dead_letters_total" [Callback] ["subscription"]
        "Dead letters that callback has taken in, by subscription; of quarantine it is empty.";
    Gauge DEAD_LETTERS_WAITING = "countersign_dead_letters_waiting" [Callback] []
        "Dead letters that nobody has acted on, counted up to the bound; every replica says the same.";
    Counter SWEPT_TOTAL = "countersign_swept_total" [Callback] []
        "Overdue deliveries that got a new check.";
    Gauge OLDEST_UNSIGNED_AGE_SECONDS = "countersign_oldest_unsigned_age_seconds" [Callback] []
        "Age in seconds of the oldest message that callback knows of and nobody signed for, apart from what is parked; every replica says the same.";
    Histogram DELIVERY_DURATION_SECONDS = "countersign_delivery_duration_seconds" [Callback] ["subscription"]
        "Seconds from storing a message to recording its receipt.";
    Counter EVENTS_TOTAL = "countersign_events_total" [Callback] ["outcome"]
        "Events about deliveries, by outcome (published, unheard, refused, unknown, dropped).";
    Counter MSG_DB_DELETED_TOTAL = "countersign_msg_db_deleted_total" [Callback] ["what"]
        "Rows of MSG DB that callback deleted after their retention, by what they are (deliveries, dead_letters).";
    Counter LATE_RECEIPTS_TOTAL = "countersign_late_receipts_total" [Callback] []
        "Receipts that came after a resend was ordered or the message was parked.";
    Counter RECONCILIATIONS_TOTAL = "countersign_reconciliations_total" [Callback] ["state"]
        "Windows reconciled, by the state of their certificates (certified, expired, skipped, differs, unreachable).";
    Histogram RECONCILE_DURATION_SECONDS = "countersign_reconcile_duration_seconds" [Callback] []
        "Seconds that one upstream's reconciliation took.";
    Gauge RECONCILE_CERTIFIED_AGE_SECONDS = "countersign_reconcile_certified_age_seconds" [Callback] ["upstream"]
        "Seconds since the time until which every message of this upstream is accounted for; every replica says the same.";
    Counter RECONCILE_MISSING_TOTAL = "countersign_reconcile_missing_total" [Callback] []
        "Messages that reconciliation found stored and not signed for.";
    Counter INVARIANT_VIOLATIONS_TOTAL = "countersign_invariant_violations_total" [Upstream Callback] ["invariant"]
        "Broken invariants (I1, I4, I5, I7, I8); anything above 0 is a defect.";
    Counter OPERATOR_ACTS_TOTAL = "countersign_operator_acts_total" [Upstream Downstream Callback] ["act", "result"]
        "Acts of operators, by result (done, already_done, not_confirmed, refused, failed).";
    Counter AUDIT_MISSING_TOTAL = "countersign_audit_missing_total" [Upstream Downstream Callback] ["act"]
        "Acts of operators whose begin or end is missing from the audit, because the broker or MSG DB did not take it: only the log has them.";
    Gauge BUILD_INFO = "countersign_build_info" [Upstream Downstream Callback] ["service", "version"]
        "Always 1; its labels say what runs.";
    Counter ACCESS_DENIED_TOTAL = "countersign_access_denied_total" [Upstream Downstream Callback] ["surface", "reason"]
        "Calls that were not let in, by surface (grpc, http) and reason (nothing, unknown, later, forbidden).";
    Gauge TLS_CERTIFICATE_ENDS_TIMESTAMP_SECONDS = "countersign_tls_certificate_ends_timestamp_seconds" [Upstream Downstream Callback] []
        "When the certificate that this service shows ends, seconds since the Unix epoch.";
    Gauge DEPENDENCY_READY = "countersign_dependency_ready" [Upstream Downstream Callback] ["dependency"]
        "1 while this dependency works, else 0.";
    Counter SPANS_DROPPED_TOTAL = "countersign_spans_dropped_total" [Upstream Downstream Callback] ["reason"]
        "Spans that were not exported, by reason (full, failed): the collector is slow or away.";
    Counter TASK_PANICS_TOTAL = "countersign_task_panics_total" [Upstream Downstream Callback] ["task"]
        "Tasks that ended in a panic.";
}

/// Tells the installed recorder what every metric of [`METRICS`] means, for the `# HELP` lines of a scrape.
pub fn describe_all() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => {
                metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_follow_the_conventions_of_prometheus() {
        for Metric { name, kind, .. } in METRICS {
            assert!(name.starts_with("countersign_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            if *kind == Kind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
    }

    #[test]
    fn no_metric_has_an_id_for_a_label() {
        for metric in METRICS {
            let named = |l: &&str| *l == "id" || l.ends_with("_id");
            assert!(!metric.labels.iter().any(named), "{}", metric.name);
        }
    }
}
