//! Ids, fingerprints, the words of reasons: what is accepted, and that it comes back as it went.

use std::collections::BTreeSet;

use countersign_delivery::id::shard_of;
use countersign_delivery::receipt::{FailReason, by_delivery};
use countersign_delivery::state::ParkReason;
use countersign_delivery::{Attempt, Fingerprint, IdempotencyKey, MessageId, Outcome, Receipt, SubscriptionName, UpstreamName};
use proptest::prelude::*;

use crate::support::*;

const V7: &str = "01890000-0000-7000-8000-000000000001";
const V4: &str = "01890000-0000-4000-8000-000000000001";

#[test]
fn a_message_id_is_a_uuid_of_version_7() {
    assert_eq!(MessageId::parse(V7).unwrap().to_string(), V7);
    for wrong in [V4, "", "x", &V7[1..]] {
        assert!(MessageId::parse(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(MessageId::from_bytes(id().uuid().as_bytes()), Ok(id()));
    assert!(MessageId::from_bytes(&[7; 15]).is_err());
    assert_eq!(serde_json::from_str::<MessageId>(&format!("{V7:?}")).unwrap(), id());
    assert!(serde_json::from_str::<MessageId>(&format!("{V4:?}")).is_err(), "whatever way it comes");
}

#[test]
fn names_take_what_queues_and_keys_can_carry() {
    for right in ["a", "inventory.orders", "A-b_c.9", &"n".repeat(200)] {
        assert_eq!(SubscriptionName::new(right).unwrap().as_str(), right);
        assert!(UpstreamName::new(right).is_ok());
    }
    for wrong in ["", "a b", "a:b", "{a}", "ä", "a/b", "a#", &"n".repeat(201)] {
        assert!(SubscriptionName::new(wrong).is_err() && UpstreamName::new(wrong).is_err(), "{wrong:?}");
        assert!(serde_json::from_value::<SubscriptionName>(wrong.into()).is_err(), "{wrong:?}");
    }
    for (key, right) in [("order 7 / ä", true), ("", false), ("a\nb", false), (&"k".repeat(255), true), (&"k".repeat(256), false)]
    {
        assert_eq!(IdempotencyKey::new(key).is_ok(), right, "{key:?}");
    }
}

#[test]
fn a_default_fingerprint_sees_every_part_and_its_bounds() {
    let all = [
        Fingerprint::of("ab", "c", b"d"),
        Fingerprint::of("a", "bc", b"d"),
        Fingerprint::of("a", "b", b"cd"),
        Fingerprint::of("ab", "c", b""),
        Fingerprint::of("", "", b"abcd"),
    ];
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    assert_eq!(all[0], Fingerprint::of("ab", "c", b"d"));
    assert_eq!(all[0].as_bytes().len(), 16);
}

#[test]
fn a_fingerprint_has_1_to_64_bytes_of_hexadecimal_text() {
    assert!(Fingerprint::new(vec![]).is_err() && Fingerprint::new(vec![0; 65]).is_err());
    for wrong in ["", "a", "0g", "+f", "é", "0x", " 1", &"00".repeat(65)] {
        assert!(Fingerprint::from_hex(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(Fingerprint::from_hex("00Ff").unwrap().to_hex(), "00ff");
}

#[test]
fn attempts_are_ordered_by_epoch_first() {
    let ascending = [attempt(0, 1), attempt(0, 2), attempt(0, 9), attempt(1, 0), attempt(1, 1)];
    assert!(ascending.is_sorted() && ascending[0] == Attempt::FIRST);
    assert_eq!((attempt(0, 1).resent(), attempt(0, 4).redriven()), (attempt(0, 2), attempt(1, 1)));
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    let own = [
        ParkReason::ResendsExhausted,
        ParkReason::Conflict,
        ParkReason::Changed,
        ParkReason::Gone,
        ParkReason::UnknownId,
        ParkReason::Expired,
    ];
    let all: Vec<_> = own.into_iter().chain(FailReason::ALL.map(ParkReason::Failed)).collect();
    for reason in &all {
        assert_eq!(ParkReason::parse(reason.as_str()).as_ref(), Some(reason));
    }
    assert_eq!(all.iter().map(ParkReason::as_str).collect::<BTreeSet<_>>().len(), all.len());
    assert!(ParkReason::parse("").is_none() && FailReason::parse("nonsense").is_none());
}

#[test]
fn receipts_are_grouped_by_delivery_in_order_without_conflicts() {
    let conflict = Outcome::Failed { reason: FailReason::Conflict, detail: String::new() };
    let first = receipt(attempt(0, 1), Outcome::Processing { lease_ms: 1 });
    let other = Receipt { subscription: SubscriptionName::new("audit").unwrap(), ..first.clone() };
    let last = receipt(attempt(0, 1), Outcome::Done);
    let batch = [receipt(attempt(0, 1), conflict), first.clone(), other.clone(), last.clone()];
    assert_eq!(by_delivery(&batch), [vec![&first, &last], vec![&other]]);
}

proptest! {
    #[test]
    fn hexadecimal_text_comes_back(bytes in proptest::collection::vec(any::<u8>(), 1..=64)) {
        let fingerprint = Fingerprint::new(bytes).unwrap();
        prop_assert_eq!(Fingerprint::from_hex(&fingerprint.to_hex()).unwrap(), fingerprint.clone());
        let json = serde_json::to_string(&fingerprint).unwrap();
        prop_assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), fingerprint);
    }

    #[test]
    fn an_id_has_one_shard_among_as_many_as_there_are(low in any::<u64>(), shards in 0..50_u32) {
        let id = MessageId::from_bytes(&((0x0189_0000_0000_7000_u128 << 64) | u128::from(low)).to_be_bytes()).unwrap();
        let shard = shard_of(id, shards);
        prop_assert!(shard < shards.max(1));
        prop_assert_eq!(shard, shard_of(id, shards));
    }
}
