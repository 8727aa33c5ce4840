//! What [`Audit`] promises.

use countersign_delivery::ports::audit::{Act, ActResult, Audit, AuditEntry, AuditFilter, CALLBACK, NewAct, ToldAct};
use countersign_delivery::time::Timestamp;
use uuid::Uuid;

use super::Waiting;

/// Makes one test of each promise. `$setup` is an async function from the test's name to `(impl Audit, impl Waiting, _)`; the last
/// part is kept until the test has ended.
#[macro_export]
macro_rules! audit_suite {
    ($setup:path) => {
        $crate::audit_suite!($setup =>
            an_act_is_begun_before_it_ends,
            a_row_ends_once,
            of_many_that_end_a_row_one_does,
            every_act_and_result_is_read_back,
            the_newest_come_first_and_pages_go_on_below_a_number,
            filters_hold_together,
            words_that_no_text_column_takes_are_stored_all_the_same,
            an_act_that_was_told_is_one_row_however_often_and_in_whatever_order_it_is_told,
            of_many_that_write_an_act_that_was_told_one_does,
            what_was_told_touches_no_row_of_callback_itself,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (audit, time, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::audit::$promise(&audit, &time).await;
        })*
    };
}

fn an_act(act: Act, by: &str, target: &str) -> NewAct {
    NewAct { by: by.into(), act, target: target.into(), subscription: "inventory".into(), reason: "a \"roll-out\" – ä".into() }
}

async fn all(audit: &impl Audit) -> Vec<AuditEntry> {
    audit.entries(&AuditFilter::default(), 1_000).await.expect("the store is up")
}

async fn numbers(audit: &impl Audit, filter: AuditFilter, limit: u32) -> Vec<u64> {
    let found = audit.entries(&filter, limit).await.expect("the store is up");
    found.into_iter().map(|entry| entry.number).collect()
}

/// As the name says: what is written first is read back, and so is how it ended.
pub async fn an_act_is_begun_before_it_ends(audit: &impl Audit, time: &impl Waiting) {
    assert_eq!(all(audit).await, []);
    let act = an_act(Act::Discard, "ada", "m-1");
    let number = audit.begin(&act).await.expect("the store is up");
    let begun = all(audit).await.remove(0);
    let NewAct { by, target, subscription, reason, .. } = act;
    assert_eq!((begun.by.clone(), begun.target.clone(), begun.subscription.clone()), (by, target, subscription));
    assert_eq!((begun.number, begun.act.as_str(), &begun.reason), (number, "discard", &reason));
    assert_eq!((begun.result, begun.ended_at, begun.detail.as_str()), (ActResult::Begun, None, ""));
    time.pass(20).await;
    assert!(audit.end(number, ActResult::Done, "inventory: discarded").await.expect("the store is up"));
    let ended = all(audit).await.remove(0);
    assert!(ended.ended_at.is_some_and(|at| at > begun.at), "{ended:?}");
    let expected =
        AuditEntry { result: ActResult::Done, detail: "inventory: discarded".into(), ended_at: ended.ended_at, ..begun };
    assert_eq!(ended, expected);
}

/// As the name says: the first end stands, and an unknown number is no row.
pub async fn a_row_ends_once(audit: &impl Audit, _: &impl Waiting) {
    let number = audit.begin(&an_act(Act::Park, "ada", "m-1")).await.expect("the store is up");
    assert!(audit.end(number, ActResult::Refused, "already done").await.expect("the store is up"));
    let ended = all(audit).await;
    assert!(!audit.end(number, ActResult::Done, "parked").await.expect("the store is up"));
    assert!(!audit.end(number + 7, ActResult::Done, "parked").await.expect("the store is up"));
    assert_eq!(all(audit).await, ended);
}

/// As the name says, at the same time.
pub async fn of_many_that_end_a_row_one_does(audit: &impl Audit, _: &impl Waiting) {
    let number = audit.begin(&an_act(Act::Park, "ada", "m-1")).await.expect("the store is up");
    let end = |result| audit.end(number, result, result.as_str());
    let (a, b, c) = tokio::join!(end(ActResult::Done), end(ActResult::Failed), end(ActResult::Refused));
    let ended = [a, b, c].map(|answer| answer.expect("the store is up"));
    assert_eq!(ended.iter().filter(|ended| **ended).count(), 1, "{ended:?}");
    let entry = all(audit).await.remove(0);
    assert_eq!(entry.detail, entry.result.as_str(), "result and detail are of one call");
}

/// As the name says.
pub async fn every_act_and_result_is_read_back(audit: &impl Audit, _: &impl Waiting) {
    let mut expected = Vec::new();
    for act in Act::ALL {
        for result in ActResult::ALL {
            let number = audit.begin(&an_act(act, "ada", "m-1")).await.expect("the store is up");
            if result != ActResult::Begun {
                assert!(audit.end(number, result, "").await.expect("the store is up"));
            }
            expected.insert(0, (act.as_str().to_owned(), result));
        }
    }
    let found: Vec<_> = all(audit).await.into_iter().map(|entry| (entry.act, entry.result)).collect();
    assert_eq!(found, expected);
}

/// As the name says.
pub async fn the_newest_come_first_and_pages_go_on_below_a_number(audit: &impl Audit, _: &impl Waiting) {
    let mut written = Vec::new();
    for n in 0..5 {
        written.push(audit.begin(&an_act(Act::Park, "ada", &format!("m-{n}"))).await.expect("the store is up"));
    }
    assert!(written.is_sorted_by(|one, next| one < next), "{written:?}");
    written.reverse();
    assert_eq!(numbers(audit, AuditFilter::default(), 3).await, written[..3]);
    let before = Some(written[2]);
    assert_eq!(numbers(audit, AuditFilter { before, ..AuditFilter::default() }, 3).await, written[3..]);
    assert_eq!(numbers(audit, AuditFilter { before: Some(0), ..AuditFilter::default() }, 3).await, []);
}

/// As the name says: each alone, and all at once.
pub async fn filters_hold_together(audit: &impl Audit, _: &impl Waiting) {
    let mut written = Vec::new();
    for (act, by, target) in [
        (Act::Park, "ada", "m-1"),
        (Act::Discard, "ada", "m-1"),
        (Act::Discard, "grace", "m-1"),
        (Act::Discard, "ada", "m-2"),
        (Act::Discard, "Ada", "m-1"),
    ] {
        written.push(audit.begin(&an_act(act, by, target)).await.expect("the store is up"));
    }
    let filter = |act: &str, by: &str, target: &str| {
        let named = |word: &str| (!word.is_empty()).then(|| word.to_owned());
        AuditFilter { act: named(act), by: named(by), target: named(target), ..AuditFilter::default() }
    };
    let rows = [
        (filter("discard", "", ""), vec![4, 3, 2, 1]),
        (filter("", "ada", ""), vec![3, 1, 0]),
        (filter("", "", "m-2"), vec![3]),
        (filter("discard", "ada", "m-1"), vec![1]),
        (filter("restore", "", ""), vec![]),
        (filter("", "nobody", ""), vec![]),
    ];
    for (filter, places) in rows {
        let expected: Vec<u64> = places.into_iter().map(|place: usize| written[place]).collect();
        assert_eq!(numbers(audit, filter.clone(), 100).await, expected, "{filter:?}");
    }
}

/// As the name says: a refused act's words may be anything.
pub async fn words_that_no_text_column_takes_are_stored_all_the_same(audit: &impl Audit, _: &impl Waiting) {
    let act = an_act(Act::Park, "a\0da", "no\0id");
    let number = audit.begin(&act).await.expect("the store is up");
    assert!(audit.end(number, ActResult::Refused, "not\0an id").await.expect("the store is up"));
    let entry = all(audit).await.remove(0);
    assert!(entry.by.starts_with('a') && entry.target.ends_with("id") && entry.detail.ends_with("an id"), "{entry:?}");
}

fn told(id: u128, result: ActResult) -> ToldAct {
    ToldAct {
        id: Uuid::from_u128(id),
        service: "downstream".into(),
        service_name: "stock".into(),
        by: "ada".into(),
        act: Act::Pause.as_str().into(),
        target: "inventory".into(),
        subscription: "inventory".into(),
        reason: "a \"roll-out\" \0– ä".into(),
        at: Timestamp::from_millis(1_700_000_000_000),
        ended_at: (result != ActResult::Begun).then(|| Timestamp::from_millis(1_700_000_000_009)),
        result,
        detail: if result == ActResult::Begun { String::new() } else { "it is so".into() },
    }
}

/// As the name says: the end alone tells everything, and the first end stands.
pub async fn an_act_that_was_told_is_one_row_however_often_and_in_whatever_order_it_is_told(
    audit: &impl Audit,
    _: &impl Waiting,
) {
    let write = async |acts: &[ToldAct]| audit.write_told(acts).await.expect("the store is up");
    let (begun, done) = (|id| told(id, ActResult::Begun), |id| told(id, ActResult::Done));
    let named = |id| ToldAct { target: "by its name".into(), ..done(id) };
    write(&[]).await;
    write(&[begun(1)]).await;
    let first = all(audit).await.remove(0);
    assert_eq!((first.result, first.ended_at, first.detail.as_str()), (ActResult::Begun, None, ""));
    assert_eq!((first.service.as_str(), first.service_name.as_str(), first.at), ("downstream", "stock", begun(1).at));
    write(&[begun(1), named(1), begun(1)]).await;
    write(&[told(1, ActResult::Failed), begun(1)]).await;
    let ended = all(audit).await.remove(0);
    assert_eq!((ended.number, ended.result, ended.ended_at), (first.number, ActResult::Done, done(1).ended_at));
    assert_eq!((ended.detail.as_str(), ended.target.as_str(), ended.at), ("it is so", "by its name", first.at));
    write(&[done(2), begun(3), done(3), done(2)]).await;
    write(&[begun(2)]).await;
    let rows: Vec<_> = all(audit).await.into_iter().map(|entry| (entry.by, entry.act, entry.result)).collect();
    assert_eq!(rows, vec![("ada".to_owned(), "pause".to_owned(), ActResult::Done); 3]);
}

/// As the name says, at the same time.
pub async fn of_many_that_write_an_act_that_was_told_one_does(audit: &impl Audit, _: &impl Waiting) {
    let (ascending, descending) =
        ([told(1, ActResult::Done), told(2, ActResult::Done)], [told(2, ActResult::Begun), told(1, ActResult::Begun)]);
    let (a, b, c) = tokio::join!(audit.write_told(&ascending), audit.write_told(&descending), audit.write_told(&ascending));
    for answer in [a, b, c] {
        answer.expect("the store is up");
    }
    let rows: Vec<_> = all(audit).await.into_iter().map(|entry| entry.result).collect();
    assert_eq!(rows, [ActResult::Done; 2]);
}

/// As the name says; and a filter tells them apart.
pub async fn what_was_told_touches_no_row_of_callback_itself(audit: &impl Audit, _: &impl Waiting) {
    let own = audit.begin(&an_act(Act::Park, "ada", "m-1")).await.expect("the store is up");
    audit.write_told(&[told(u128::from(own), ActResult::Done)]).await.expect("the store is up");
    assert!(audit.end(own, ActResult::Refused, "not so").await.expect("the store is up"));
    let at = async |service: &str| {
        let filter = AuditFilter { service: Some(service.into()), ..AuditFilter::default() };
        let found = audit.entries(&filter, 100).await.expect("the store is up");
        found.into_iter().map(|entry| (entry.act, entry.result)).collect::<Vec<_>>()
    };
    assert_eq!(at(CALLBACK).await, [("park".to_owned(), ActResult::Refused)]);
    assert_eq!(at("downstream").await, [("pause".to_owned(), ActResult::Done)]);
    assert_eq!(at("upstream").await, []);
    assert_eq!(all(audit).await.len(), 2);
}
