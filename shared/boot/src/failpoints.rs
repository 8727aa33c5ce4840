//! Named points between two effects, at which a test kills the process.
//!
//! They exist only with the cargo feature `failpoints`, which is off in anything that is shipped; without it
//! [`failpoint`] is empty. With it the variable `FAILPOINTS` says what happens where, in the language of the crate
//! `fail`: `upstream.after_store=1*return` kills at the first hit, `resend.after_lookup=2*off->1*return` at the third,
//! `downstream.after_claim=sleep(500)` waits half a second; several are separated by `;`.
//!
//! `return` means: one line `failpoint hit: NAME` on standard error, then SIGKILL to the own process.

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A point at which a test can kill the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Failpoint { $($(#[$doc])* $variant,)* }

        impl Failpoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name used in `FAILPOINTS`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

points! {
    /// Kills nothing: `return(MILLIS)` is how far the clock of this process is off. Below 0: behind.
    ClockOffset = "clock.offset";
    /// Step 1: business rows and messages are written, their transaction is not committed.
    TransactionBeforeCommit = "transaction.before_commit";
    /// Step 1: the row is committed, nothing is published.
    UpstreamAfterStore = "upstream.after_store";
    /// Step 1: the message is handed to the broker, its confirm has not come.
    UpstreamAfterMessagePublish = "upstream.after_message_publish";
    /// Step 1: the message is confirmed, its check is not.
    UpstreamAfterMessageConfirm = "upstream.after_message_confirm";
    /// Step 2: message and check are confirmed, the caller has no answer.
    UpstreamAfterCheckConfirm = "upstream.after_check_confirm";
    /// Step 1: the rows are inserted, their transaction is open.
    StoreAfterInsert = "store.after_insert";
    /// Step 1: COMMIT is handed to the database, its answer has not been looked at.
    StoreAfterCommitSent = "store.after_commit_sent";
    /// Mode outbox: the broker has answered, the status is not written.
    OutboxAfterConfirm = "outbox.after_confirm";
    /// Mode outbox: a sweeper has claimed rows, nothing is published.
    OutboxAfterClaim = "outbox.after_claim";
    /// The watermark is about to be written.
    UpstreamBeforeWatermark = "upstream.before_watermark";
    /// Adoption: the heartbeat row is claimed, nothing is published.
    AdoptAfterClaim = "adopt.after_claim";
    /// Adoption: what the first scan found is published, nothing is fenced.
    AdoptAfterFirstSweep = "adopt.after_first_sweep";
    /// Adoption: fenced, not scanned again.
    AdoptAfterFence = "adopt.after_fence";
    /// Adoption: what the second scan found is handed to the broker, confirms may be missing.
    AdoptAfterSecondSweep = "adopt.after_second_sweep";
    /// Adoption: everything is confirmed, nothing is closed.
    AdoptBeforeClose = "adopt.before_close";
    /// Step 7b: the message was found, nothing is published.
    ResendAfterLookup = "resend.after_lookup";
    /// Step 7b: the message is published again, callback has no answer.
    ResendAfterPublish = "resend.after_publish";
    /// Step 3: the message has arrived, nothing is claimed.
    DownstreamAfterDelivery = "downstream.after_delivery";
    /// Step 3: claimed, not handled.
    DownstreamAfterClaim = "downstream.after_claim";
    /// Step 3: the handler has answered, the transaction that it ran in is not committed.
    DownstreamBeforeCommit = "downstream.before_commit";
    /// Step 3: handled, not completed: the effect may come twice.
    DownstreamAfterEffect = "downstream.after_effect";
    /// Step 3: written to the archive, not completed in Redis.
    DownstreamAfterArchive = "downstream.after_archive";
    /// Step 3: completed, no receipt.
    DownstreamAfterComplete = "downstream.after_complete";
    /// Step 4: the receipt is handed to the broker, its confirm has not come.
    DownstreamAfterReceiptPublish = "downstream.after_receipt_publish";
    /// Step 4: the receipt is confirmed, the message is not acked.
    DownstreamAfterReceiptConfirm = "downstream.after_receipt_confirm";
    /// Step 5: receipts have arrived, nothing is written.
    CallbackReceiptAfterDelivery = "callback.receipt_after_delivery";
    /// Step 5: receipts are written, the batch is not acked.
    CallbackReceiptAfterPersist = "callback.receipt_after_persist";
    /// Step 6: a check batch has arrived, nothing is judged.
    CallbackCheckAfterDelivery = "callback.check_after_delivery";
    /// Step 7a: the attempt is stored, upstream is not called.
    CallbackAfterAttemptStored = "callback.after_attempt_stored";
    /// Step 7a: upstream has answered, the answer is not stored.
    CallbackAfterCall = "callback.after_call";
    /// Step 6: entries that wait are in a new, confirmed batch; the old one is not acked.
    CallbackAfterRearm = "callback.after_rearm";
    /// Events are published and confirmed, their rows are not deleted.
    CallbackAfterEventPublish = "callback.after_event_publish";
    /// Dead letters: they are stored, their copies in the queue are not acked.
    CallbackLettersAfterStore = "callback.letters_after_store";
    /// Dead letters: the orders to redrive are stored, no copy is published.
    CallbackAfterRedriveStored = "callback.after_redrive_stored";
    /// Dead letters: the copies of redriven ones are confirmed, nothing of that is stored.
    CallbackAfterRedriveConfirm = "callback.after_redrive_confirm";
    /// An operator's act: its audit row is begun, nothing has changed.
    CallbackAfterActBegun = "callback.after_act_begun";
    /// An operator's act: the deliveries have changed, the audit row is not ended.
    CallbackAfterActApplied = "callback.after_act_applied";
    /// An operator's act at upstream or downstream: it is told that it is about to be tried, nothing has changed.
    AuditAfterBegun = "audit.after_begun";
    /// An operator's act at upstream or downstream: it has ended, which is not told.
    AuditAfterAct = "audit.after_act";
}

/// Does what `FAILPOINTS` says for `point`; nothing in a build without the feature.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "must vanish from shipped builds, unoptimised ones included")]
pub fn failpoint(_point: Failpoint) {}

/// Does what `FAILPOINTS` says for `point`.
#[cfg(feature = "failpoints")]
pub fn failpoint(point: Failpoint) {
    armed::hit(point);
}

/// How far the clock is off by what `FAILPOINTS` says, milliseconds; always 0 in a build without the feature.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "must vanish from shipped builds, unoptimised ones included")]
pub(crate) fn clock_offset_ms() -> i64 {
    0
}

#[cfg(feature = "failpoints")]
pub(crate) use armed::clock_offset_ms;

#[cfg(not(feature = "failpoints"))]
pub(crate) fn arm(variable: Option<&str>) -> Result<(), String> {
    match variable {
        None => Ok(()),
        Some(_) => {
            Err("FAILPOINTS is set, but this build has no failpoints: build with the cargo feature `failpoints`".to_owned())
        }
    }
}

#[cfg(feature = "failpoints")]
pub(crate) use armed::arm;

#[cfg(feature = "failpoints")]
mod armed {
    use std::io::Write as _;

    use tokio::runtime::{Handle, RuntimeFlavor};

    use super::Failpoint;

    /// Sets up what `FAILPOINTS` says. A name that does not exist is an error: such a test would never fail.
    pub(crate) fn arm(variable: Option<&str>) -> Result<(), String> {
        let entries = variable.unwrap_or_default().split(';').map(str::trim);
        for entry in entries.filter(|e| !e.is_empty()) {
            let wrong = |why: &str| Err(format!("FAILPOINTS: {entry:?}: {why}"));
            let Some((name, actions)) = entry.split_once('=') else {
                return wrong("give NAME=ACTIONS");
            };
            if !Failpoint::ALL.iter().any(|p| p.name() == name) {
                return wrong("no such failpoint");
            }
            if let Err(why) = fail::cfg(name, actions) {
                return wrong(&why);
            }
        }
        Ok(())
    }

    /// `sleep` blocks its thread; the runtime must be told, or tasks queued behind it would sleep too.
    pub(super) fn hit(point: Failpoint) {
        let evaluate = || {
            fail::eval(point.name(), |_| die(point));
        };
        match Handle::try_current() {
            Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(evaluate);
            }
            _ => evaluate(),
        }
    }

    pub(crate) fn clock_offset_ms() -> i64 {
        let read = |argument: Option<String>| argument.and_then(|millis| millis.parse().ok()).unwrap_or(0);
        fail::eval(Failpoint::ClockOffset.name(), read).unwrap_or(0)
    }

    fn die(point: Failpoint) {
        let line = format!("failpoint hit: {}\n", point.name());
        let _ = std::io::stderr().write_all(line.as_bytes());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_component_and_a_place_and_each_is_there_once() {
        let mut names: Vec<_> = Failpoint::ALL.iter().map(|p| p.name()).collect();
        assert!(names.iter().all(|n| n.split('.').count() == 2));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Failpoint::ALL.len());
    }

    #[test]
    fn a_failpoint_that_cannot_fire_is_refused() {
        assert!(arm(Some("upstream.after_stroe=1*return")).is_err());
        assert_eq!(arm(None), Ok(()));
    }
}
