use std::collections::VecDeque;
use std::time::Duration;

use super::*;

struct Bench {
    ledger: Ledger,
    batch: u64,
    answers: oneshot::Receiver<Vec<Published>>,
    slots: Vec<usize>,
}

fn key(name: &str) -> Key {
    Key { message_id: name.into(), exchange: "x".into(), route: "k".into() }
}

fn bench(names: &[&str]) -> Bench {
    let mut ledger = Ledger::new(16);
    let (reply, answers) = oneshot::channel();
    let batch = ledger.open(names.len(), reply);
    let mut bench = Bench { ledger, batch, answers, slots: Vec::new() };
    for (index, name) in names.iter().enumerate() {
        bench.start(name, index);
    }
    bench
}

impl Bench {
    fn start(&mut self, name: &str, index: usize) {
        let now = Instant::now();
        let place = Place { batch: self.batch, index };
        let slot = self.ledger.start(key(name), place, Kind::Message, now, now + Duration::from_secs(1));
        self.slots.push(slot.unwrap());
    }

    fn land(&self, index: usize, carried: Option<&str>) -> Landed {
        let carried = carried.map(|name| (key(name), "NO_ROUTE".to_owned()));
        Landed { slot: self.slots[index], positive: true, carried }
    }

    fn answers(mut self) -> Vec<Published> {
        self.answers.try_recv().expect("all are answered")
    }
}

fn returned() -> Published {
    Published::Returned { reason: "NO_ROUTE".into() }
}

#[tokio::test]
async fn a_return_on_another_messages_confirm_finds_its_own() {
    let mut bench = bench(&["routable", "lost"]);
    let first = bench.land(0, Some("lost"));
    assert_eq!(bench.ledger.settle(vec![first]).len(), 0, "nothing is certain yet");
    let second = bench.land(1, None);
    assert_eq!(bench.ledger.settle(vec![second]).len(), 2);
    assert_eq!(bench.answers(), [Published::Confirmed, returned()]);
}

#[tokio::test]
async fn two_returns_on_swapped_confirms_are_told_apart() {
    // Both were returned; the confirm of the second completes first and takes the return of the first.
    let mut bench = bench(&["a", "b", "later"]);
    let second = bench.land(1, Some("a"));
    assert_eq!(bench.ledger.settle(vec![second]), []);
    let first = bench.land(0, Some("b"));
    assert_eq!(bench.ledger.settle(vec![first]).len(), 2);
    let later = bench.land(2, None);
    bench.ledger.settle(vec![later]);
    assert_eq!(bench.answers(), [returned(), returned(), Published::Confirmed]);
}

#[tokio::test]
async fn a_confirm_that_was_under_way_already_frees_nobody() {
    // `held` completed with a stranger's return. `older` was started before that and may have completed before its return came.
    let mut bench = bench(&["stranger", "held", "older", "open"]);
    let (held, older) = (bench.land(1, Some("stranger")), bench.land(2, None));
    let settled = bench.ledger.settle(vec![held, older]);
    assert_eq!(settled.len(), 1, "only the confirm that carried nothing: {settled:?}");
    let stranger = bench.land(0, Some("held"));
    assert_eq!(bench.ledger.settle(vec![stranger]).len(), 2);
    let open = bench.land(3, None);
    bench.ledger.settle(vec![open]);
    assert_eq!(bench.answers(), [returned(), returned(), Published::Confirmed, Published::Confirmed]);
}

#[tokio::test]
async fn a_later_publication_that_carries_nothing_frees_what_is_held() {
    let mut bench = bench(&["stranger", "held"]);
    let (reply, _ignored) = oneshot::channel();
    let held = bench.land(1, Some("stranger"));
    assert_eq!(bench.ledger.settle(vec![held]), []);
    let batch = bench.batch;
    bench.batch = bench.ledger.open(1, reply);
    bench.start("later", 0);
    bench.batch = batch;
    let later = bench.land(2, None);
    assert_eq!(bench.ledger.settle(vec![later]).len(), 2, "the later one and the held one");
    let stranger = bench.land(0, None);
    bench.ledger.settle(vec![stranger]);
    assert_eq!(bench.answers(), [returned(), Published::Confirmed]);
}

#[tokio::test]
async fn a_lost_channel_leaves_nothing_known() {
    let mut bench = bench(&["stranger", "held", "open"]);
    let held = bench.land(1, Some("stranger"));
    bench.ledger.settle(vec![held]);
    assert_eq!(bench.ledger.abandon().len(), 3);
    assert!(bench.ledger.is_empty() && bench.ledger.oldest_expires().is_none());
    assert_eq!(bench.answers(), [Published::Unknown, Published::Unknown, Published::Unknown]);
}

#[tokio::test]
async fn the_same_key_waits_for_the_first_of_its_kind() {
    let mut bench = bench(&["a"]);
    assert!(!bench.ledger.has_room_for(&key("a")));
    assert!(bench.ledger.has_room_for(&key("b")));
    let landed = bench.land(0, None);
    bench.ledger.settle(vec![landed]);
    assert!(bench.ledger.has_room_for(&key("a")));
}

/// lapin's bookkeeping, played against the ledger over many orders: returns queue up, each confirm takes the oldest.
#[tokio::test]
async fn whatever_the_order_the_ledger_is_right() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut early = 0;
    for _ in 0..5_000 {
        let count = 2 + draw(12);
        let names: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        let unroutable: Vec<bool> = (0..count).map(|_| draw(2) == 0).collect();
        let mut bench = bench(&[]);
        let (reply, answers) = oneshot::channel();
        (bench.batch, bench.answers) = (bench.ledger.open(count, reply), answers);
        let (mut open, mut round) = (Vec::new(), Vec::new());
        let (mut returns, mut unreturned) = (VecDeque::new(), VecDeque::new());
        let mut settled = 0;
        while settled < count {
            let started = bench.slots.len();
            if started < count && (open.is_empty() || draw(3) > 0) {
                bench.start(&names[started], started);
                open.push(started);
                unreturned.extend(unroutable[started].then_some(started));
                continue;
            }
            // Returns come in the order of publishing, each before its own confirm, some ahead of time.
            let at = open.remove(draw(open.len()));
            while unreturned.front().is_some_and(|next| *next <= at || draw(4) == 0) {
                returns.extend(unreturned.pop_front());
            }
            let carried: Option<usize> = returns.pop_front();
            round.push(bench.land(at, carried.map(|number| names[number].as_str())));
            if open.is_empty() || draw(3) == 0 {
                settled += bench.ledger.settle(std::mem::take(&mut round)).len();
                early += usize::from(settled > 0 && !open.is_empty());
            }
        }
        let expected: Vec<_> = unroutable.iter().map(|lost| if *lost { returned() } else { Published::Confirmed }).collect();
        assert_eq!(bench.answers(), expected);
    }
    assert!(early > 1_000, "most do not have to wait for the end: {early}");
}
