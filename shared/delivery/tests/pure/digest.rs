use countersign_delivery::digest::Digest;
use countersign_delivery::{Fingerprint, MessageId};
use proptest::prelude::*;

fn id(random: u64) -> MessageId {
    MessageId::from_bytes(&((0x0189_0000_0000_7000_8000_u128 << 48) | u128::from(random & 0xffff_ffff_ffff)).to_be_bytes())
        .unwrap()
}

fn of(messages: &[(u64, Vec<u8>)]) -> Digest {
    let mut digest = Digest::default();
    for (random, fingerprint) in messages {
        digest.add(id(*random), &Fingerprint::new(fingerprint.clone()).unwrap());
    }
    digest
}

fn messages() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    proptest::collection::vec((0_u64..1 << 48, proptest::collection::vec(any::<u8>(), 1..=64)), 1..20)
}

proptest! {
    #[test]
    fn neither_order_nor_a_split_matters(messages in messages(), turn in 0_usize..20, split in 0_usize..20) {
        let mut turned = messages.clone();
        turned.rotate_left(turn % messages.len());
        prop_assert_eq!(of(&turned), of(&messages));
        let (left, right) = messages.split_at(split % messages.len());
        let mut sum = of(left);
        sum.merge(of(right));
        prop_assert_eq!(sum, of(&messages));
        prop_assert_eq!(Digest::from_parts(sum.count(), sum.hash()), sum);
    }

    #[test]
    fn one_changed_bit_or_a_message_counted_twice_is_seen(messages in messages(), at in 0_usize..20, bit in 0_u32..48) {
        let at = at % messages.len();
        let mut changed = messages.clone();
        changed[at].0 ^= 1 << bit;
        prop_assert_ne!(of(&changed), of(&messages));
        let mut changed = messages.clone();
        changed[at].1[0] ^= 1 << (bit % 8);
        prop_assert_ne!(of(&changed), of(&messages));
        let twice = [messages.as_slice(), &messages[at..=at]].concat();
        prop_assert_ne!(of(&twice).hash(), of(&messages).hash());
    }
}
