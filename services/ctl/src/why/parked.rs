//! Why a delivery was left for a human, and what the human can do about it.

/// A reason as callback stores it, in words; what follows a colon is the consumer's own detail.
pub fn reason_words(reason: &str) -> String {
    let (word, detail) = reason.split_once(": ").map_or((reason, None), |(word, detail)| (word, Some(detail)));
    let words = match word {
        "rejected" => "its handler refused it",
        "poison" => "it crashed its consumer too often",
        "undecodable" => "it could not be read",
        "conflict" | "fingerprint_conflict" => "its id is known under another content",
        "stale" => "it came later than its consumer remembers what it did",
        "retries_exhausted" => "its handler failed in every retry tier",
        "dead_lettered" => "the broker dead-lettered it (delivery limit)",
        "outcome_unknown" => "its handling began and nobody knows how it ended",
        "resends_exhausted" => "it was lost again after every resend",
        "changed" => "upstream has it under another fingerprint than the one that was sent",
        "gone" => "upstream has its row, but not its body",
        "unknown_id" => "its upstream does not know it",
        "operator" => "an operator put it aside",
        "expired" => "it is too old to be sent again without risking a second effect",
        other => return other.to_owned(),
    };
    match detail {
        Some(detail) => format!("{words} ({word}: {detail})"),
        None => format!("{words} ({word})"),
    }
}

/// What an operator may do about a parked delivery.
pub fn advice(id: &str, subscription: &str, reason: &str, expired: bool) -> String {
    let word = reason.split(": ").next().unwrap_or(reason);
    let again = format!("countersign redrive {id} --subscription {subscription}");
    if expired || word == "expired" {
        return format!(
            "it is too old to be sent again (dedup_retention_ms): if you know that it had no effect, send it anew as another message; or \
             accept that its effect may happen a second time: {again} --allow-duplicate"
        );
    }
    match word {
        "conflict" | "fingerprint_conflict" => {
            format!("find out which of the two contents is the right one before anything else; only then: {again}")
        }
        "changed" | "gone" | "unknown_id" => {
            format!("bring the row back into the database of its upstream, or send the event anew; after the first: {again}")
        }
        "resends_exhausted" => {
            format!(
                "find out why it never reaches {subscription} (binding, queue, consumer: countersign topology verify), then: {again}"
            )
        }
        "operator" => format!("look into its history for who put it aside and why (countersign history {id}), then: {again}"),
        "outcome_unknown" => format!("look up at {subscription} whether it had its effect; if not: {again}"),
        _ => {
            let show = format!("countersign dead show {id} --subscription {subscription}");
            format!("mend what {subscription} failed at ({show} has its dead letter), then: {again}")
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_delivery::receipt::FailReason;
    use countersign_delivery::state::ParkReason;

    use super::*;

    #[test]
    fn every_reason_has_words_and_advice() {
        let own = [
            ParkReason::ResendsExhausted,
            ParkReason::Conflict,
            ParkReason::Changed,
            ParkReason::Gone,
            ParkReason::UnknownId,
            ParkReason::Expired,
            ParkReason::Operator,
        ];
        for reason in own.into_iter().chain(FailReason::ALL.map(ParkReason::Failed)) {
            let words = reason_words(reason.as_str());
            assert!(words.ends_with(&format!("({})", reason.as_str())), "{words}");
            let advice = advice("ID", "audit", reason.as_str(), false);
            assert!(advice.contains("countersign redrive ID --subscription audit"), "{advice}");
            assert_eq!(advice.contains("--allow-duplicate"), reason == ParkReason::Expired, "{advice}");
        }
    }

    #[test]
    fn the_detail_is_kept_and_of_what_is_too_old_the_risk_is_said() {
        assert_eq!(reason_words("rejected: no such article"), "its handler refused it (rejected: no such article)");
        let old = advice("ID", "audit", "rejected: no", true);
        assert!(old.contains("too old") && old.contains("its effect may happen a second time"), "{old}");
    }
}
