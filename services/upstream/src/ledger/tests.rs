//! The ledger against a plain map of what is unsettled.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_delivery::ports::Clock as _;
use countersign_testkit::build::incarnation;
use countersign_testkit::clock::ManualClock;
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::*;

const PAGE_BYTES: usize = 1_000;

/// How often a seq was tried, and when it is due if it waits.
type Model = BTreeMap<Seq, (u32, Option<(Instant, What)>)>;

#[derive(Clone, Debug)]
enum Step {
    /// So many are about to be stored.
    Assign(usize),
    /// Deferred: which of those that do not wait, what, bytes, and whether it was tried.
    Defer(usize, What, usize, bool),
    /// Settled, or rolled back: which of all.
    Settle(usize),
    RollBack(usize),
    /// So many milliseconds later what is due is taken.
    TakeDue(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![4 => Just(What::Message), 1 => Just(What::Check)];
    prop_oneof![
        2 => (1..40_usize).prop_map(Step::Assign),
        8 => (any::<usize>(), what, 0..400_usize, any::<bool>())
            .prop_map(|(which, what, bytes, tried)| Step::Defer(which, what, bytes, tried)),
        3 => any::<usize>().prop_map(Step::Settle),
        1 => any::<usize>().prop_map(Step::RollBack),
        1 => (0..400_u64).prop_map(Step::TakeDue),
    ]
}

fn a_ledger() -> Arc<Ledger> {
    a_ledger_by(&ManualClock::default())
}

fn a_ledger_by(clock: &ManualClock) -> Arc<Ledger> {
    Ledger::own(incarnation(1), incarnation(1).minted_at(), Arc::new(clock.clone()), Arc::default(), PAGE_BYTES)
}

fn seqs(ledger: &Ledger, tickets: Vec<Ticket>) -> Vec<Seq> {
    ledger.assign(tickets).expect("it accepts").into_iter().map(|(seq, _)| seq).collect()
}

fn pick(mut from: impl Iterator<Item = Seq> + Clone, which: usize) -> Option<Seq> {
    let count = from.clone().count();
    from.nth(which.checked_rem(count)?)
}

/// A ticket with one of these places.
fn a_ticket(places: &Arc<Semaphore>) -> Ticket {
    Ticket { settled: None, place: Some(places.clone().try_acquire_owned().expect("enough places")) }
}

fn pause(tries: u32) -> Duration {
    Duration::from_millis(50 * u64::from(tries))
}

proptest! {
    #[test]
    fn it_is_a_set_whose_places_are_freed(steps in prop::collection::vec(step(), 1..100)) {
        const PLACES: usize = 10_000;
        let (ledger, places, mut now) = (a_ledger(), Arc::new(Semaphore::new(PLACES)), Instant::now());
        let (mut model, mut next, mut highest) = (Model::new(), Seq::FIRST, Seq::FIRST);
        for step in steps {
            match step {
                Step::Assign(count) => {
                    let tickets = (0..count).map(|_| a_ticket(&places)).collect();
                    for (seq, _) in ledger.assign(tickets).expect("it accepts") {
                        prop_assert_eq!(seq, next);
                        model.insert(seq, (0, None));
                        next = next.next();
                    }
                }
                Step::Defer(which, what, bytes, tried) => {
                    let published = model.iter().filter(|(_, (_, waits))| waits.is_none()).map(|(seq, _)| *seq);
                    let Some(seq) = pick(published, which) else { continue };
                    ledger.defer(seq, Again { what, bytes }, tried, |tries| now + pause(tries));
                    let tries = model[&seq].0 + u32::from(tried);
                    model.insert(seq, (tries, Some((now + pause(tries), what))));
                }
                Step::Settle(which) => if let Some(seq) = pick(model.keys().copied(), which) {
                    ledger.settle(seq);
                    model.remove(&seq);
                },
                Step::RollBack(which) => if let Some(seq) = pick(model.keys().copied(), which) {
                    prop_assert!(ledger.roll_back(seq).place.is_some());
                    model.remove(&seq);
                },
                Step::TakeDue(millis) => {
                    now += Duration::from_millis(millis);
                    take_all_due(&ledger, &mut model, now)?;
                }
            }
            prop_assert_eq!(ledger.settled().0, model.keys().next().copied().unwrap_or(next));
            prop_assert!(ledger.settled().0 >= highest);
            highest = ledger.settled().0;
            prop_assert_eq!(ledger.lag(), next.0 - highest.0);
            prop_assert_eq!(ledger.backlog().0, model.len());
            prop_assert_eq!(places.available_permits(), PLACES - model.len());
            for seq in (1..next.0 + 2).map(Seq) {
                prop_assert_eq!(ledger.is_unsettled(seq), model.contains_key(&seq));
            }
        }
        ledger.stop_accepting();
        prop_assert_eq!(ledger.is_drained(), model.is_empty());
    }
}

/// Nothing is taken much too early, nothing is left that is due, and no page is too large.
fn take_all_due(ledger: &Ledger, model: &mut Model, now: Instant) -> Result<(), TestCaseError> {
    loop {
        let page = ledger.take_due(now);
        if page.is_empty() {
            break;
        }
        // What a page's bodies have together is known, each one's only on the average.
        let bytes: usize = page.iter().map(|due| due.again.bytes).sum();
        prop_assert!(page.len() == 1 || bytes <= PAGE_BYTES + page.len(), "{} of {bytes} bytes", page.len());
        for Due { seq, again } in page {
            let Some((tries, Some((at, what)))) = model.get(&seq).copied() else {
                return Err(TestCaseError::fail(format!("{seq:?} did not wait")));
            };
            prop_assert!(at <= now + Duration::from_millis(100) && what == again.what);
            model.insert(seq, (tries, None));
        }
    }
    let left = model.iter().find(|(_, (_, waits))| waits.is_some_and(|(at, _)| at <= now));
    prop_assert!(left.is_none(), "{left:?} is due at {now:?}");
    prop_assert!(ledger.next_due().is_none_or(|due| due > now));
    Ok(())
}

#[test]
fn a_caller_that_still_waits_is_told_although_its_message_was_deferred() {
    let ledger = a_ledger();
    let (settled, mut told) = oneshot::channel();
    let seqs = seqs(&ledger, vec![Ticket { settled: Some(settled), place: None }]);
    ledger.defer(seqs[0], Again { what: What::Message, bytes: 1 }, true, |_| Instant::now());
    assert_eq!(ledger.take_due(Instant::now()).len(), 1);
    ledger.settle(seqs[0]);
    assert_eq!(told.try_recv(), Ok(()));
}

#[test]
fn callers_that_are_gone_are_forgotten() {
    let ledger = a_ledger();
    for _ in 0..10_000 {
        // Whoever deferred it does not know yet that its caller gives up.
        let (settled, told) = oneshot::channel();
        let seqs = seqs(&ledger, vec![Ticket { settled: Some(settled), place: None }]);
        ledger.defer(seqs[0], Again { what: What::Message, bytes: 1 }, false, |_| Instant::now());
        drop(told);
    }
    assert!(ledger.lock().deferred.callers() < 2_000, "{} callers are kept", ledger.lock().deferred.callers());
    assert_eq!(ledger.backlog().0, 10_000);
}

#[test]
fn those_that_wait_take_few_pages_whatever_happens_to_their_neighbours() {
    const COUNT: usize = 50_000;
    let ledger = a_ledger();
    let now = Instant::now();
    for seq in seqs(&ledger, (0..COUNT).map(|_| Ticket::default()).collect()) {
        if seq.0.is_multiple_of(2) {
            ledger.settle(seq);
        } else {
            ledger.defer(seq, Again { what: What::Message, bytes: 1 }, seq.0.is_multiple_of(3), |_| now);
        }
    }
    let pages = ledger.lock().deferred.pages();
    assert!(pages <= 2 * (COUNT / 256 + 1), "{pages} pages");
    assert_eq!(ledger.backlog().0, COUNT / 2);
}

#[test]
fn whoever_has_taken_over_publishes_what_waits() {
    let ledger = a_ledger();
    let seqs = seqs(&ledger, (0..3).map(|_| Ticket::default()).collect());
    let again = Again { what: What::Message, bytes: 1 };
    ledger.defer(seqs[0], again, false, |_| Instant::now());
    ledger.give_up();
    assert_eq!(ledger.backlog().0, 2, "what is being published is still ours");
    ledger.defer(seqs[1], again, false, |_| Instant::now());
    assert_eq!((ledger.backlog().0, ledger.next_due()), (1, None));
    assert!(ledger.assign(vec![Ticket::default()]).is_err());
}

#[test]
fn an_id_is_minted_with_its_seq_and_holds_the_time_back_until_it_is_settled() {
    let clock = ManualClock::default();
    let ledger = a_ledger_by(&clock);
    let begun = ledger.settled().1;
    assert_eq!(begun, clock.now(), "nothing is unsettled: it is now");
    clock.advance(5);
    let (held, id) = ledger.assign(vec![Ticket::default()]).unwrap()[0];
    let (later, later_id) = ledger.assign(vec![Ticket::default()]).unwrap()[0];
    assert_eq!((id.place(), id.minted_at()), ((incarnation(1).tag(), held), clock.now()));
    assert!(later_id > id, "also within a millisecond");
    ledger.settle(later);
    for _ in 0..1_000 {
        clock.advance(1);
        assert_eq!(ledger.settled().1, begun);
    }
    drop(ledger.roll_back(held));
    let (next, until) = ledger.settled();
    assert_eq!((next, until), (later.next(), clock.now()));
}

#[test]
fn a_clock_that_goes_back_takes_no_id_along() {
    let clock = ManualClock::default();
    let ledger = a_ledger_by(&clock);
    let assign = || ledger.assign(vec![Ticket::default()]).unwrap()[0].1;
    let before = assign();
    clock.set(clock.now().minus_millis(3_600_000));
    let after = assign();
    assert!(after > before && after.minted_at() == before.minted_at(), "{before} and {after}");
}
