//! What [`Pauses`] promise.

use countersign_delivery::Timestamp;
use countersign_delivery::ports::pauses::{Pause, Pauses};

use crate::build::subscription;

/// Makes a module's worth of tests: one of each promise. `$setup` is an async function from the test's name to `impl Pauses`.
#[macro_export]
macro_rules! pauses_suite {
    ($setup:path) => {
        $crate::pauses_suite!($setup =>
            what_nobody_paused_is_not_paused,
            a_pause_is_read_as_it_was_written_until_it_is_cleared,
            the_latest_order_stands,
            clearing_says_whether_there_was_one,
            several_are_read_in_order_and_apart,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let pauses = $setup(stringify!($promise)).await;
            $crate::conformance::pauses::$promise(&pauses).await;
        })*
    };
}

fn pause(reason: &str) -> Pause {
    Pause { reason: reason.into(), by: "Ada Ó".into(), at: Timestamp::from_millis(1_700_000_000_123) }
}

/// Nothing written, nothing paused; asking for none is fine.
pub async fn what_nobody_paused_is_not_paused(pauses: &impl Pauses) {
    assert_eq!(pauses.get(&[subscription("inventory")]).await.unwrap(), [None]);
    assert_eq!(pauses.get(&[]).await.unwrap(), []);
}

/// Words, name and time come back, and go when it is cleared.
pub async fn a_pause_is_read_as_it_was_written_until_it_is_cleared(pauses: &impl Pauses) {
    let inventory = subscription("inventory");
    let written = pause("a \"roll-out\" \n gone wrong: 50 %");
    pauses.set(&inventory, &written).await.unwrap();
    assert_eq!(pauses.get(std::slice::from_ref(&inventory)).await.unwrap(), [Some(written)]);
    pauses.clear(&inventory).await.unwrap();
    assert_eq!(pauses.get(&[inventory]).await.unwrap(), [None]);
}

/// A second order replaces the first as a whole.
pub async fn the_latest_order_stands(pauses: &impl Pauses) {
    let inventory = subscription("inventory");
    pauses.set(&inventory, &pause("first")).await.unwrap();
    let second = Pause { reason: "second".into(), by: String::new(), at: Timestamp::from_millis(2) };
    pauses.set(&inventory, &second).await.unwrap();
    assert_eq!(pauses.get(&[inventory]).await.unwrap(), [Some(second)]);
}

/// True once, then false.
pub async fn clearing_says_whether_there_was_one(pauses: &impl Pauses) {
    let inventory = subscription("inventory");
    assert!(!pauses.clear(&inventory).await.unwrap());
    pauses.set(&inventory, &pause("first")).await.unwrap();
    assert!(pauses.clear(&inventory).await.unwrap());
    assert!(!pauses.clear(&inventory).await.unwrap());
}

/// One subscription's pause is no other's.
pub async fn several_are_read_in_order_and_apart(pauses: &impl Pauses) {
    let names = ["a", "b", "c"].map(subscription);
    pauses.set(&names[2], &pause("c")).await.unwrap();
    pauses.set(&names[0], &pause("a")).await.unwrap();
    assert_eq!(pauses.get(&names).await.unwrap(), [Some(pause("a")), None, Some(pause("c"))]);
    assert!(pauses.clear(&names[0]).await.unwrap());
    assert_eq!(pauses.get(&names).await.unwrap(), [None, None, Some(pause("c"))]);
}
