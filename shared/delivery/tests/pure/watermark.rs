//! The tracker against the plainest thing that could be meant.

use std::collections::BTreeSet;

use countersign_delivery::Seq;
use countersign_delivery::watermark::Tracker;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Assign,
    Settle(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![2 => Just(Step::Assign), 3 => (0..40_u64).prop_map(Step::Settle)];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn the_watermark_is_the_oldest_unsettled_and_never_goes_back(steps in steps()) {
        let mut tracker = Tracker::default();
        let (mut assigned, mut settled) = (0_u64, BTreeSet::new());
        let mut before = Seq::FIRST;
        for step in steps {
            match step {
                Step::Assign => {
                    assigned += 1;
                    prop_assert_eq!(tracker.assign(), Seq(assigned));
                    prop_assert!(tracker.is_unsettled(Seq(assigned)));
                }
                Step::Settle(seq) => {
                    let was = (1..=assigned).contains(&seq) && settled.insert(seq);
                    prop_assert_eq!(tracker.settle(Seq(seq)), was);
                }
            }
            let oldest = (1..=assigned).find(|seq| !settled.contains(seq)).unwrap_or(assigned + 1);
            prop_assert_eq!(tracker.watermark(), Seq(oldest));
            prop_assert!(tracker.watermark() >= before);
            prop_assert_eq!(tracker.unsettled() as u64, assigned - settled.len() as u64);
            prop_assert_eq!(tracker.lag(), assigned + 1 - oldest);
            before = tracker.watermark();
        }
    }
}
