mod late;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use countersign_callback::reconcile::schedule::{self, Schedule};
use countersign_callback::reconcile::{Busy, Figures, Reconciler, Task};
use countersign_callback::upstreams::addresses::Addresses;
use countersign_callback::upstreams::digests::{DigestError, Digests, Stored, StoredPage, StoredSums};
use countersign_delivery::check::Check;
use countersign_delivery::ports::Clock as _;
use countersign_delivery::ports::reconciliation::Reconciliation as _;
use countersign_delivery::reconcile::{Certificate, Line, MINUTE_MS, State, Sums, Window, minute_of};
use countersign_delivery::{Message, Outcome as Signed, SubscriptionName, Timestamp, UpstreamName};
use countersign_testkit::build::{
    NOW, a_check_of, a_message_with, a_policy, a_receipt_of, a_subscription, a_topology, subscription, upstream,
};

use crate::rig::{Rig, Settings, armed, batch_of};

const MINUTE: i64 = MINUTE_MS.cast_signed();
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// Where `shop` is.
const SHOP: &str = "http://shop:1";

/// Upstreams' books in memory: the second implementation of the port.
#[derive(Clone, Default)]
struct FakeDigests(Arc<Mutex<Books>>);

#[derive(Default)]
struct Books {
    /// By address: who is there, and what is stored for whom.
    upstreams: BTreeMap<String, (UpstreamName, Vec<(SubscriptionName, Message)>)>,
    settled_until: Timestamp,
    kept_from: Option<Timestamp>,
    /// The same for windows that do not begin an hour ago: retention goes on while slices are asked for.
    kept_later: Option<Timestamp>,
    /// Before each page comes an empty one: upstream looks at so many rows for a page at most, and this subscription has none among them.
    hollow: bool,
    /// A window that is longer is not answered in time, minutes; none: every window is.
    quick_minutes: Option<u64>,
    /// What answers too late: the call's own deadline, or a status.
    late: Option<tonic::Code>,
    /// Every window that was asked for.
    sums: Vec<Window>,
    lists: Vec<(SubscriptionName, Window)>,
}

impl FakeDigests {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }

    fn store(&self, address: &str, name: &str, messages: &[Message]) {
        let mut books = self.lock();
        let of = |message: &Message| message.required.iter().map(|to| (to.clone(), message.clone())).collect::<Vec<_>>();
        let (_, stored) = books.upstreams.entry(address.to_owned()).or_insert_with(|| (upstream(name), Vec::new()));
        stored.extend(messages.iter().flat_map(of));
        stored.sort_by_key(|(_, message)| message.id);
    }

    fn in_time(&self, address: &str, window: Window) -> Result<(), DigestError> {
        let books = self.lock();
        let long = window.until.millis_since(window.since) / MINUTE_MS;
        let (address, words) = (address.to_owned(), String::new());
        match (books.quick_minutes, books.late) {
            (Some(quick), None) if long > quick => Err(DigestError::TooLate { address, deadline_ms: 1 }),
            (Some(quick), Some(code)) if long > quick => Err(DigestError::Failed { address, code, words }),
            _ => Ok(()),
        }
    }

    fn of(&self, address: &str) -> Result<(UpstreamName, Vec<(SubscriptionName, Message)>), DigestError> {
        let found = self.lock().upstreams.get(address).cloned();
        found.ok_or_else(|| DigestError::TooLate { address: address.to_owned(), deadline_ms: 1 })
    }
}

#[async_trait]
impl Digests for FakeDigests {
    async fn sums(&self, address: &str, window: Window) -> Result<StoredSums, DigestError> {
        self.lock().sums.push(window);
        self.in_time(address, window)?;
        let (upstream, stored) = self.of(address)?;
        let mut sums = Sums::new();
        for (to, message) in stored.iter().filter(|(_, message)| window.contains(message.id.minted_at())) {
            let minutes = sums.entry(to.clone()).or_default();
            minutes.entry(minute_of(message.id.minted_at())).or_default().add(message.id, &message.fingerprint);
        }
        let books = self.lock();
        let later = books.kept_later.filter(|_| window.since > NOW.minus_millis(HOUR_MS));
        Ok(StoredSums { upstream, settled_until: books.settled_until, kept_from: later.or(books.kept_from), sums })
    }

    /// Pages of two; a token is the index of the next message, with a dash once an empty page has come before it.
    async fn list(
        &self,
        address: &str,
        window: Window,
        subscription: &SubscriptionName,
        page_token: String,
    ) -> Result<StoredPage, DigestError> {
        let (_, stored) = self.of(address)?;
        let mut books = self.lock();
        books.lists.push((subscription.clone(), window));
        if books.hollow && !page_token.starts_with('-') {
            return Ok(StoredPage { messages: Vec::new(), next_page_token: format!("-{page_token}") });
        }
        let from = page_token.trim_start_matches('-').parse().unwrap_or(0);
        let wanted = stored.into_iter().filter(|(to, message)| to == subscription && window.contains(message.id.minted_at()));
        let all: Vec<Stored> = wanted
            .map(|(_, message)| Stored { message_id: message.id, fingerprint: message.fingerprint, sent_at: message.sent_at })
            .collect();
        let next_page_token = if all.len() > from + 2 { (from + 2).to_string() } else { String::new() };
        Ok(StoredPage { messages: all.into_iter().skip(from).take(2).collect(), next_page_token })
    }
}

/// A callback with the books of `shop`, settled until now.
struct Net {
    rig: Rig,
    digests: FakeDigests,
    reconciler: Reconciler,
}

impl Net {
    fn new() -> Self {
        Self::with(Settings::default(), None, &[("shop", SHOP)])
    }

    fn with(settings: Settings, retention_ms: Option<u64>, named: &[(&str, &str)]) -> Self {
        let rig = Rig::with(settings);
        let digests = FakeDigests::default();
        digests.store(SHOP, "shop", &[]);
        digests.lock().settled_until = rig.clock.now();
        let named = named.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect();
        let figures = Figures { probe_wait: Duration::from_secs(30), retention_ms, missing_max: 3 };
        let (books, addresses) = (Arc::new(rig.deliveries.clone()), Addresses::new(named, String::new()));
        let reconciler = Reconciler::new(rig.desk.clone(), books, Arc::new(digests.clone()), addresses, figures);
        rig.deliveries.answer_probes(true);
        Self { rig, digests, reconciler }
    }

    /// Stored by `shop`, a second apart, the first one so many minutes ago.
    fn stored(&self, minutes_ago: i64, count: i64) -> Vec<Message> {
        let messages: Vec<Message> = (0..count).map(|n| message(minutes_ago, n)).collect();
        self.digests.store(SHOP, "shop", &messages);
        messages
    }

    async fn signed(&self, messages: &[Message], outcome: &Signed) {
        let of = |message| a_receipt_of(message, &subscription("inventory"), outcome.clone());
        self.rig.sign(messages.iter().map(of).collect()).await;
    }

    /// The last hour, of everybody.
    async fn reconcile(&self) -> Vec<Certificate> {
        self.run(&Task { asked: last_hour(), upstreams: Vec::new(), validate_only: false }).await
    }

    async fn run(&self, task: &Task) -> Vec<Certificate> {
        let right = self.reconciler.begin().unwrap();
        let certificates = self.reconciler.reconcile(&right, task).await.unwrap();
        assert!(certificates.iter().flat_map(|certificate| &certificate.lines).all(Line::adds_up), "{certificates:?}");
        certificates
    }

    async fn reconcile_one(&self) -> Certificate {
        let mut certificates = self.reconcile().await;
        assert_eq!(certificates.len(), 1, "{certificates:?}");
        certificates.remove(0)
    }

    fn checks(&self) -> Vec<(String, Check)> {
        armed(&self.rig.broker.published())
    }

    fn listings(&self) -> usize {
        self.digests.lock().lists.len()
    }
}

fn message(minutes_ago: i64, n: i64) -> Message {
    let minted = NOW.as_millis() - minutes_ago * MINUTE + n * 1_000;
    Message { sent_at: Timestamp::from_millis(minted + 1), ..a_message_with(minted.unsigned_abs(), &format!("{n}")) }
}

fn last_hour() -> Window {
    Window { since: NOW.minus_millis(HOUR_MS), until: NOW.plus_millis(MINUTE_MS) }
}

fn counts(certificate: &Certificate) -> [u64; 7] {
    let sum = |count: fn(&Line) -> u64| certificate.sum(count);
    [
        sum(|line| line.stored),
        sum(|line| line.verified),
        sum(|line| line.in_flight),
        sum(|line| line.parked),
        sum(|line| line.discarded),
        sum(|line| line.missing),
        sum(|line| line.skipped),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_is_signed_for_is_certified_by_its_sums_alone() {
    let net = Net::new();
    let messages = net.stored(9, 70);
    net.signed(&messages, &Signed::Done).await;
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Certified, [70, 70, 0, 0, 0, 0, 0]));
    // Its own check delay of two seconds is not over for the last minute.
    let until = NOW.minus_millis(MINUTE_MS);
    assert_eq!(certificate.compared, Window { since: NOW.minus_millis(HOUR_MS), until });
    assert_eq!((net.listings(), net.checks().len()), (0, 0));
    assert_eq!(net.reconciler.certificates().await.unwrap(), [certificate]);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_gets_a_due_check_of_its_first_try() {
    let net = Net::new();
    let messages = net.stored(9, 5);
    net.signed(&messages[..3], &Signed::Done).await;
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Differs, [5, 3, 0, 0, 0, 2, 0]));
    assert_eq!(certificate.lines[0].missing_ids, [messages[3].id, messages[4].id]);
    assert_eq!(certificate.certified_until(), Some(NOW.minus_millis(9 * MINUTE_MS)));
    let due = |message| ("countersign.checks".to_owned(), a_check_of(message));
    assert_eq!(net.checks(), [due(&messages[3]), due(&messages[4])]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_page_is_not_the_last_one() {
    let net = Net::new();
    net.digests.lock().hollow = true;
    let messages = net.stored(9, 5);
    net.signed(&messages[..3], &Signed::Done).await;
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Differs, [5, 3, 0, 0, 0, 2, 0]));
    assert_eq!((net.listings(), net.checks().len()), (6, 2), "three pages, each with an empty one before it");
}

#[tokio::test(start_paused = true)]
async fn whatever_callback_watches_over_is_accounted_for() {
    let net = Net::new();
    let messages = net.stored(9, 3);
    net.signed(&messages[..1], &Signed::Done).await;
    net.signed(&messages[1..2], &Signed::Processing { lease_ms: 1 }).await;
    net.signed(&messages[2..], &Signed::Retrying { delay_ms: 1_000, detail: String::new() }).await;
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Certified, [3, 1, 2, 0, 0, 0, 0]));
    assert!(net.checks().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_receipt_for_another_fingerprint_verifies_nothing() {
    let net = Net::new();
    let messages = net.stored(9, 1);
    let other = a_message_with((NOW.as_millis() - 9 * MINUTE).unsigned_abs(), "an impostor");
    assert_eq!(other.id, messages[0].id);
    net.signed(&[other], &Signed::Done).await;
    let certificate = net.reconcile_one().await;
    assert_eq!(counts(&certificate), [1, 0, 0, 0, 0, 1, 0]);
    assert_eq!(net.checks().len(), 1, "its check finds the conflict");
}

/// Mode `confirmed`, and `outbox` without a check.
#[tokio::test(start_paused = true)]
async fn what_has_a_receipt_and_no_row_breaks_no_certificate_and_costs_a_listing_beside_others() {
    let net = Net::new();
    let unstored: Vec<Message> = (0..3).map(|n| message(20, n)).collect();
    net.signed(&unstored, &Signed::Done).await;
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Certified, [0; 7]), "alone in its minute, and in the hour");
    assert_eq!(net.listings(), 0);

    let messages = net.stored(9, 2);
    net.signed(&messages, &Signed::Done).await;
    net.signed(&[message(9, 5)], &Signed::Done).await;
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Certified, [2, 2, 0, 0, 0, 0, 0]));
    assert_eq!((net.listings(), net.checks().len()), (1, 0), "of its minute alone, and nothing is checked");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_answers_no_probe_is_skipped_and_nothing_is_checked() {
    let net = Net::new();
    net.rig.deliveries.answer_probes(false);
    let messages = net.stored(9, 5);
    let further = net.stored(20, 2);
    net.signed(&messages[..3], &Signed::Done).await;
    net.signed(&further, &Signed::Done).await;
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Skipped, [7, 2, 0, 0, 0, 0, 5]));
    assert!(certificate.detail.contains("inventory has not answered a probe"), "{}", certificate.detail);
    assert_eq!((net.listings(), net.checks().len()), (0, 0));
    assert_eq!(net.rig.probes_in("inventory"), 1);
    assert_eq!(certificate.certified_until(), Some(NOW.minus_millis(9 * MINUTE_MS)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_probe_of_before_says_nothing() {
    let net = Net::new();
    net.rig.deliveries.answer_probes(false);
    let messages = net.stored(9, 1);
    net.rig.look(&a_check_of(&messages[0])).await;
    assert_eq!(net.rig.probes_in("inventory"), 1);
    net.rig.answer_probe(1).await;
    assert_eq!(net.reconcile_one().await.state, State::Skipped);
}

#[tokio::test(start_paused = true)]
async fn without_probes_only_time_tells() {
    let mut topology = a_topology();
    topology.subscriptions = vec![a_subscription("inventory", "order.*")];
    topology.subscriptions[0].probes = false;
    let policy = countersign_delivery::policy::Policy { unprobed_timeout_ms: 30 * MINUTE_MS, ..a_policy() };
    let net = Net::with(Settings { topology, policy, ..Settings::default() }, None, &[("shop", SHOP)]);
    net.stored(20, 1);
    let old = net.stored(40, 1);
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Differs, [2, 0, 0, 0, 0, 1, 1]));
    assert_eq!(net.checks(), [("countersign.checks".to_owned(), a_check_of(&old[0]))]);
    assert!(certificate.detail.contains("signs no probes"), "{}", certificate.detail);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_publishes_nothing_and_keeps_nothing() {
    let net = Net::new();
    net.stored(9, 2);
    let task = Task { asked: last_hour(), upstreams: vec![upstream("shop")], validate_only: true };
    let certificate = net.run(&task).await.remove(0);
    assert_eq!((certificate.state, counts(&certificate)), (State::Differs, [2, 0, 0, 0, 0, 2, 0]));
    assert!(net.checks().is_empty());
    assert!(net.reconciler.certificates().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn outside_of_what_is_kept_and_settled_nothing_is_compared() {
    let day = 24 * HOUR_MS;
    // What downstream has forgotten, what callback has deleted, what upstream has deleted, what is not settled.
    let rows = [
        (20 * MINUTE_MS, None, None, 0, "dedup_retention"),
        (day, Some(20 * MINUTE_MS), None, 0, "callback's retention"),
        (day, None, Some(20 * MINUTE_MS), 0, "upstream's retention"),
        (day, None, None, 40 * MINUTE_MS, "not settled"),
    ];
    for (dedup_retention_ms, retention_ms, kept_ms, unsettled_ms, why) in rows {
        let settings = Settings { dedup_retention_ms, ..Settings::default() };
        let net = Net::with(settings, retention_ms, &[("shop", SHOP)]);
        net.stored(30, 1);
        net.digests.lock().kept_from = kept_ms.map(|kept_ms| NOW.minus_millis(kept_ms));
        net.digests.lock().settled_until = NOW.minus_millis(unsettled_ms);
        let certificate = net.reconcile_one().await;
        assert_eq!((certificate.state, counts(&certificate)), (State::Certified, [0; 7]), "{why}");
        assert!(certificate.detail.contains(why), "{why} in {}", certificate.detail);
        let half = Window { since: NOW.minus_millis(35 * MINUTE_MS), until: NOW.minus_millis(25 * MINUTE_MS) };
        let task = Task { asked: half, upstreams: Vec::new(), validate_only: false };
        let certificate = net.run(&task).await.remove(0);
        assert_eq!((certificate.state, certificate.certified_until()), (State::Expired, None), "{why}");
        assert!(net.checks().is_empty(), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_away_or_another_one_does_not_stop_the_others() {
    let addresses = [("away", "http://away:1"), ("billing", SHOP), ("shop", SHOP)];
    let net = Net::with(Settings::default(), None, &addresses);
    let messages = net.stored(9, 2);
    net.signed(&messages, &Signed::Done).await;
    net.reconciler.clone().certificates().await.unwrap();
    net.rig.deliveries.note_upstreams(&[upstream("unnamed")]).await.unwrap();
    let certificates = net.reconcile().await;
    let states: Vec<_> = certificates.iter().map(|one| (one.upstream.as_str(), one.state)).collect();
    let (away, fine) = (State::Unreachable, State::Certified);
    assert_eq!(states, [("away", away), ("billing", away), ("shop", fine), ("unnamed", away)]);
    for (at, words) in [(0, "did not answer"), (1, "upstream shop answers at"), (3, "give it one under callback.upstreams")] {
        assert!(certificates[at].detail.contains(words), "{}", certificates[at].detail);
    }
}

#[tokio::test(start_paused = true)]
async fn who_answers_at_the_address_for_all_is_known_from_then_on() {
    let net = Net::new();
    let messages = net.stored(9, 2);
    net.signed(&messages, &Signed::Done).await;
    let (books, addresses) = (Arc::new(net.rig.deliveries.clone()), Addresses::new(BTreeMap::new(), SHOP.to_owned()));
    let figures = Figures { probe_wait: Duration::from_secs(1), retention_ms: None, missing_max: 3 };
    let digests = Arc::new(net.digests.clone());
    let nameless = Reconciler::new(net.rig.desk.clone(), books, digests, addresses, figures);
    let net = Net { reconciler: nameless, ..net };
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.upstream.as_str(), certificate.state), ("shop", State::Certified));
    assert_eq!(net.rig.deliveries.known_upstreams().await.unwrap()[0].upstream, upstream("shop"));
    net.digests.lock().upstreams.clear();
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.upstream.as_str(), certificate.state), ("shop", State::Unreachable));
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_does_not_confirm_and_what_is_too_much_is_left_to_the_next_round() {
    let net = Net::new();
    let messages = net.stored(9, 5);
    let certificate = net.reconcile_one().await;
    assert_eq!(counts(&certificate), [5, 0, 0, 0, 0, 5, 0]);
    assert!(certificate.detail.contains("2 of what is missing is left"), "{}", certificate.detail);
    assert_eq!(net.checks().len(), 3);
    net.rig.clock.advance(2_000);
    // The probe, and the batch of checks.
    net.rig.broker.nack_next(2);
    let certificate = net.reconcile_one().await;
    assert!(certificate.detail.contains("not every missing message could be checked"), "{}", certificate.detail);
    net.signed(&messages[..3], &Signed::Processing { lease_ms: 60_000 }).await;
    net.rig.clock.advance(2_000);
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Differs, [5, 0, 3, 0, 0, 2, 0]));
}

#[tokio::test(start_paused = true)]
async fn without_the_database_nothing_is_certified() {
    let net = Net::new();
    net.stored(9, 1);
    net.rig.deliveries.go_down();
    let right = net.reconciler.begin().unwrap();
    let task = Task { asked: last_hour(), upstreams: vec![upstream("shop")], validate_only: false };
    assert!(net.reconciler.reconcile(&right, &task).await.is_err());
    assert_eq!(net.reconciler.begin().err(), Some(Busy), "one at a time");
}

#[tokio::test(start_paused = true)]
async fn a_check_makes_its_upstream_known_and_a_receipt_does_not() {
    let net = Net::new();
    let message = message(9, 0);
    net.signed(std::slice::from_ref(&message), &Signed::Processing { lease_ms: 1 }).await;
    assert!(net.rig.deliveries.known_upstreams().await.unwrap().is_empty());
    net.rig.deliveries.go_down();
    net.rig.look_at(&[batch_of(&[a_check_of(&message)])]).await;
    net.rig.deliveries.come_up();
    net.rig.look(&a_check_of(&message)).await;
    assert_eq!(net.rig.deliveries.known_upstreams().await.unwrap()[0].upstream, upstream("shop"));
}

const SCHEDULE: Schedule = Schedule { interval_ms: 600_000, overlap_ms: HOUR_MS };

#[tokio::test(start_paused = true)]
async fn the_schedule_begins_where_everything_was_accounted_for() {
    let net = Net::new();
    let messages = net.stored(9, 3);
    net.signed(&messages[..2], &Signed::Done).await;
    assert_eq!(schedule::round(&net.reconciler, SCHEDULE).await.unwrap(), 1);
    assert_eq!(net.checks().len(), 1);
    let asked = |net: &Net| net.digests.lock().sums.first().map(|window| window.since);
    let remembered = minute_of(NOW.minus_millis(net.rig.desk.figures.dedup_retention_ms));
    assert_eq!(asked(&net), Some(remembered), "the first time from as long ago as anything can be sent again");
    assert_eq!(schedule::round(&net.reconciler, SCHEDULE).await.unwrap(), 0, "not due");
    net.digests.lock().sums.clear();
    net.rig.clock.advance(SCHEDULE.interval_ms);
    assert_eq!(schedule::round(&net.reconciler, SCHEDULE).await.unwrap(), 1);
    let open = NOW.minus_millis(9 * MINUTE_MS);
    assert_eq!(asked(&net), Some(open.minus_millis(SCHEDULE.overlap_ms)));
    net.signed(&messages[2..], &Signed::Done).await;
    net.digests.lock().settled_until = net.rig.clock.now();
    net.rig.clock.advance(SCHEDULE.interval_ms);
    schedule::round(&net.reconciler, SCHEDULE).await.unwrap();
    let known = net.rig.deliveries.known_upstreams().await.unwrap().remove(0);
    let settled = minute_of(NOW.plus_millis(SCHEDULE.interval_ms).minus_millis(2_000));
    assert_eq!(known.certified_until, Some(settled.min(NOW.plus_millis(SCHEDULE.interval_ms))));
    assert_eq!(known.certificate.unwrap().state, State::Certified);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_away_keeps_what_was_certified() {
    let net = Net::new();
    schedule::round(&net.reconciler, SCHEDULE).await.unwrap();
    let before = net.rig.deliveries.known_upstreams().await.unwrap().remove(0);
    assert!(before.certified_until.is_some());
    net.digests.lock().upstreams.clear();
    net.rig.clock.advance(SCHEDULE.interval_ms);
    assert_eq!(schedule::round(&net.reconciler, SCHEDULE).await.unwrap(), 1);
    let after = net.rig.deliveries.known_upstreams().await.unwrap().remove(0);
    assert_eq!(after.certified_until, before.certified_until);
    assert_eq!(after.certificate.unwrap().state, State::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_one_reconciles() {
    let net = Net::new();
    let books = Arc::new(net.rig.deliveries.clone());
    let addresses = Addresses::new([("shop".to_owned(), SHOP.to_owned())].into(), String::new());
    let figures = Figures { probe_wait: Duration::from_secs(1), retention_ms: None, missing_max: 3 };
    let other = Reconciler::new(net.rig.desk.clone(), books, Arc::new(net.digests.clone()), addresses, figures);
    let (one, two) = tokio::join!(schedule::round(&net.reconciler, SCHEDULE), schedule::round(&other, SCHEDULE));
    assert_eq!(BTreeSet::from([one.unwrap(), two.unwrap()]), BTreeSet::from([0, 1]));
}
