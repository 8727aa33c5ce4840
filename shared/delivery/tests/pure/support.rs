//! Values to begin with.

use countersign_delivery::check::Check;
use countersign_delivery::policy::Policy;
use countersign_delivery::state::{Command, Facts, Signed};
use countersign_delivery::{
    Attempt, Delivery, Fingerprint, MessageId, Outcome, Receipt, SubscriptionName, Timestamp, UpstreamName,
};

pub const NOW: Timestamp = Timestamp::from_millis(1_000_000);
pub const OVERDUE_MS: u64 = 600_000;

pub const fn attempt(epoch: u32, number: u32) -> Attempt {
    Attempt { epoch, number }
}

pub const fn at(millis_from_now: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis_from_now)
}

pub fn id() -> MessageId {
    MessageId::parse("01890000-0000-7000-8000-000000000001").unwrap()
}

pub fn subscription() -> SubscriptionName {
    SubscriptionName::new("inventory").unwrap()
}

pub fn genuine() -> Fingerprint {
    Fingerprint::new(vec![1]).unwrap()
}

pub fn impostor() -> Fingerprint {
    Fingerprint::new(vec![2]).unwrap()
}

pub fn facts(fingerprint: Fingerprint) -> Facts {
    Facts { upstream: UpstreamName::new("shop").unwrap(), fingerprint, sent_at: at(-5_000) }
}

pub fn receipt(attempt: Attempt, outcome: Outcome) -> Receipt {
    let Facts { upstream, fingerprint, sent_at } = facts(genuine());
    Receipt { message_id: id(), subscription: subscription(), upstream, fingerprint, attempt, sent_at, outcome, trace: None }
}

pub fn delivery(signed: Signed, command: Command, live_until: Option<Timestamp>) -> Delivery {
    let settled = matches!(signed, Signed::Done { .. }) || matches!(command, Command::Parked { .. } | Command::Discarded { .. });
    Delivery { facts: facts(genuine()), signed, command, live_until, due_at: (!settled).then(|| at(1_000)), effect_epoch: 0 }
}

pub fn check(attempt: Attempt) -> Check {
    Check {
        message_id: id(),
        fingerprint: genuine(),
        attempt,
        waits: 0,
        sent_at: at(-5_000),
        required: vec![subscription()],
        marks: Vec::new(),
        trace: None,
    }
}

pub fn policy() -> Policy {
    Policy::default()
}
