//! Names of AMQP headers, and the wire version. User headers never begin with [`PREFIX`].

/// Version of headers and batches.
pub const VERSION: u32 = 1;
/// Leads the name of every header of ours.
pub const PREFIX: &str = countersign_delivery::routing::OWN_HEADER_PREFIX;
/// [`VERSION`]; present on everything we publish.
pub const WIRE: &str = "countersign-wire";
/// Fingerprint, hexadecimal.
pub const FINGERPRINT: &str = "countersign-fingerprint";
/// Number of the attempt, from 1.
pub const ATTEMPT: &str = "countersign-attempt";
/// Epoch, from 0.
pub const EPOCH: &str = "countersign-epoch";
/// The epoch in which an operator allowed a further effect; absent: 0, never. It joins the consumers' record of what is done.
pub const EFFECT_EPOCH: &str = "countersign-effect-epoch";
/// The message's `sent_at`, milliseconds since the Unix epoch.
pub const SENT_AT: &str = "countersign-sent-at";
/// Whether this is not upstream's first publish of the message (adoption, catching up, resend).
pub const REPUBLISHED: &str = "countersign-republished";
/// The exchange the message was meant for, when it travels by another (resend, retry).
pub const EXCHANGE: &str = "countersign-exchange";
/// The routing key it was meant for, likewise.
pub const ROUTING_KEY: &str = "countersign-routing-key";
/// How often a handler has failed on it: the retry tier it comes from, from 1.
pub const RETRY: &str = "countersign-retry";
/// Why a dead letter is dead.
pub const DEAD_REASON: &str = "countersign-dead-reason";
/// For a human, likewise.
pub const DEAD_DETAIL: &str = "countersign-dead-detail";
/// When a dead letter died, milliseconds since the Unix epoch, by the clock of whoever wrote it down.
pub const DEAD_AT: &str = "countersign-dead-at";
/// Which downstream (or callback) wrote that down.
pub const DEAD_BY: &str = "countersign-dead-by";
/// What a message went through at its subscription so far: [`crate::history::History`] as JSON.
pub const HISTORY: &str = "countersign-history";
/// Number of a probe.
pub const PROBE: &str = "countersign-probe";
/// The retry tier a probe goes through, milliseconds; 0: none.
pub const PROBE_RETRY: &str = "countersign-probe-retry";
/// When a canary was sent, milliseconds since the Unix epoch by its sender's clock; only canaries have it.
pub const CANARY: &str = "countersign-canary";
/// The check tier that a canary was sent through, milliseconds.
pub const CANARY_DELAY: &str = "countersign-canary-delay";
/// [`VERSION`]; only what tells of acts of operators has it.
pub const ACTS: &str = "countersign-acts";
/// What an event tells of; only events have it.
pub const EVENT: &str = "countersign-event";
/// Content type of an event: a CloudEvents 1.0 envelope with its data.
pub const CLOUD_EVENT: &str = "application/cloudevents+json";
/// W3C trace context.
pub const TRACEPARENT: &str = countersign_delivery::routing::TRACE_HEADERS[0];
/// W3C trace context, vendor entries.
pub const TRACESTATE: &str = countersign_delivery::routing::TRACE_HEADERS[1];
/// Content type of protobuf batches.
pub const PROTOBUF: &str = "application/x-protobuf";
/// Content type of a single receipt in JSON, for consumers that sign by themselves.
pub const JSON: &str = "application/json";
