//! Every state, and what is said of it.

use countersign_wire::proto::{
    Attempt, Delivery, GetMessageResponse, GetOutlookResponse, HistoryLine, JudgingFigures, NewMessage, ProbeLane, SendState,
    SubscriptionOutlook,
};

use super::super::known::{Answer, Known};
use super::{Story, explain};

const SENT: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;
const ID: &str = "0190b8a0-0000-7000-8000-000000000001";

fn message(state: SendState) -> Answer<GetMessageResponse> {
    let message = NewMessage {
        exchange: "orders".into(),
        routing_key: "order.created".into(),
        r#type: "order.created".into(),
        ..NewMessage::default()
    };
    Answer::Got(GetMessageResponse {
        id: ID.into(),
        state: state.into(),
        message: Some(message),
        required: vec!["audit".into(), "stock".into()],
        sent_at_ms: SENT,
        body_bytes: 12,
        ..GetMessageResponse::default()
    })
}

fn figures() -> JudgingFigures {
    JudgingFigures {
        max_resends: 3,
        check_delay_ms: 120_000,
        recheck_delays_ms: vec![15_000, 60_000, 300_000, 900_000],
        resend_lease_ms: 30_000,
        probe_grace_ms: 90_000,
        probe_spacing_ms: 1_000,
        probe_replace_ms: 30_000,
        probe_replace_max_ms: 900_000,
        unprobed_timeout_ms: 900_000,
        overdue_ms: 1_200_000,
        dedup_retention_ms: 604_800_000,
    }
}

fn subscription(name: &str, lane: ProbeLane) -> SubscriptionOutlook {
    let lanes = vec![lane, ProbeLane { retry_delay_ms: 1_000, ..ProbeLane::default() }];
    SubscriptionOutlook { subscription: name.into(), known: true, probes: true, retry_delays_ms: vec![1_000], lanes }
}

fn outlook(after_ms: i64, lane: ProbeLane) -> GetOutlookResponse {
    let subscriptions = vec![subscription("audit", lane), subscription("stock", lane)];
    GetOutlookResponse { now_ms: SENT + after_ms, figures: Some(figures()), subscriptions }
}

/// A confirmed message so long after its send, with these deliveries, and no probe so far.
fn at(after_ms: i64, deliveries: Vec<Delivery>) -> Known {
    probed(after_ms, ProbeLane::default(), deliveries)
}

fn probed(after_ms: i64, lane: ProbeLane, deliveries: Vec<Delivery>) -> Known {
    let deliveries = if deliveries.is_empty() { Answer::Unknown } else { Answer::Got(deliveries) };
    let outlook = Answer::Got(outlook(after_ms, lane));
    Known { id: ID.into(), message: message(SendState::Confirmed), deliveries, outlook, local_now_ms: 0 }
}

fn delivery(subscription: &str, state: &str) -> Delivery {
    Delivery {
        message_id: ID.into(),
        subscription: subscription.into(),
        state: state.into(),
        attempt: Some(Attempt { epoch: 0, number: 1 }),
        upstream: "shop".into(),
        sent_at_ms: SENT,
        ..Delivery::default()
    }
}

fn try_of(number: u32, state: &str, history: &[(i64, u32, &str, &str)]) -> Delivery {
    let line = |(after_ms, number, what, detail): &(i64, u32, &str, &str)| HistoryLine {
        at_ms: SENT + after_ms,
        attempt: Some(Attempt { epoch: 0, number: *number }),
        what: (*what).into(),
        detail: (*detail).into(),
    };
    let attempt = Some(Attempt { epoch: 0, number });
    Delivery { attempt, history: history.iter().map(line).collect(), ..delivery("stock", state) }
}

fn live(state: &str, until_after_ms: i64, retry_delay_ms: u64) -> Delivery {
    Delivery { live_until_ms: SENT + until_after_ms, retry_delay_ms, ..delivery("stock", state) }
}

fn parked(reason: &str) -> Delivery {
    let history = [(MINUTE, 4, "parked", reason.split(": ").next().unwrap())];
    Delivery { reason: reason.into(), ..try_of(4, "parked", &history) }
}

fn next_of(story: &Story, subscription: Option<&str>) -> (String, Option<i64>) {
    let one = story.next.iter().find(|next| next.subscription.as_deref() == subscription);
    let one = one.unwrap_or_else(|| panic!("nothing comes for {subscription:?} in {story:?}"));
    (one.what.clone(), one.when_ms.map(|at| at - SENT))
}

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
}

fn history_of(story: &Story) -> Vec<String> {
    story.happened.iter().map(|one| one.what.clone()).collect()
}

/// What `stock` may expect: by its delivery, the words and the time (after the send) of what comes.
#[test]
fn every_state_has_its_words() {
    let resends = [(MINUTE, 2, "resending", ""), (MINUTE + 10, 2, "resent", "")];
    let unknown = [(3 * MINUTE, 2, "resending", ""), (3 * MINUTE + 10, 2, "resending", "unknown_id")];
    let failed = Delivery { reason: "rejected: no such article".into(), ..delivery("stock", "failed") };
    let order = |after| at(after, vec![try_of(2, "resending", &[(3 * MINUTE, 2, "resending", "")])]);
    let spoken = Delivery { live_until_ms: SENT + 5 * MINUTE, ..try_of(2, "resending", &resends[..1]) };
    let last = |state| vec![try_of(4, state, &[(10 * MINUTE, 4, "resent", "")])];
    let rows: Vec<(Known, &[&str], Option<i64>)> = vec![
        (
            at(100_000, vec![]),
            &["not signed yet", "check", "(in 20 s)", "by probes", "has it sent again only if it is lost"],
            Some(120_000),
        ),
        (
            at(11 * MINUTE, last("resent")),
            &["resend 3 of 3", "due about", "leaves it for a human only if it is lost"],
            Some(12 * MINUTE),
        ),
        (at(121_000, vec![]), &["sends a probe", "resend 1 of 3", "(in 14 s)", "at most 15 min apart"], Some(135_000)),
        (at(200_000, vec![live("processing", 230_000, 0)]), &["a live consumer holds it", "(in 30 s)"], Some(230_000)),
        (
            at(240_000, vec![live("processing", 230_000, 0)]),
            &["has not said more since", "(10 s ago)", "sends a probe"],
            Some(495_000),
        ),
        (at(10_000, vec![live("retrying", 70_000, 60_000)]), &["retry tier of 1 min", "again about", "(in 1 min)"], Some(70_000)),
        (at(10_000, vec![live("retrying", 70_000, 0)]), &["waits in a retry tier"], Some(70_000)),
        (at(130_000, vec![live("retrying", 70_000, 1_000)]), &["was to come again", "sends a probe"], Some(135_000)),
        (at(10_000, vec![failed]), &["leaves it for a human", "about", "no such article"], Some(120_000)),
        (order(190_000), &["attempt 2, resend 1 of 3", "no answer yet", "at the earliest", "(in 20 s)"], Some(210_000)),
        (order(300_000), &["no answer yet", "repeated at callback's next look", "no attempt is spent"], None),
        (at(190_000, vec![try_of(2, "resending", &unknown)]), &["repeated at callback's next look"], None),
        (at(2 * MINUTE, vec![spoken]), &["has spoken since", "(in 3 min)"], Some(5 * MINUTE)),
        (
            at(2 * MINUTE, vec![try_of(2, "resent", &resends)]),
            &["attempt 2, resend 1 of 3", "the check of this attempt"],
            Some(180_010),
        ),
        (at(20 * MINUTE, last("resent")), &["left for a human", "all 3 resends are used"], None),
        (
            at(10 * MINUTE, vec![parked("resends_exhausted")]),
            &["nothing by itself", "attempt 4, resend 3 of 3", "lost again"],
            None,
        ),
        (at(10 * MINUTE, vec![delivery("stock", "done")]), &["nothing more: it has signed"], None),
        (at(10 * MINUTE, vec![delivery("stock", "novel")]), &["calls it novel", "update"], None),
    ];
    for (known, words, when) in rows {
        let (what, at) = next_of(&explain(&known), Some("stock"));
        says(&what, words);
        if !what.contains("all 3 resends") {
            assert_eq!(at, when, "{what}");
        }
    }
}

#[test]
fn committed_and_not_confirmed() {
    let known = Known { message: message(SendState::Committed), ..at(5_000, vec![]) };
    let story = explain(&known);
    says(&history_of(&story).join("\n"), &["upstream stored it", "12 bytes", "audit, stock", "does not know yet"]);
    says(&next_of(&story, None).0, &["goes on publishing", "another one of the same name takes over"]);
    assert_eq!(story.next.len(), 1, "nobody can sign what is not published: {story:?}");
    says(&story.advice.join("\n"), &["/health/ready of upstream"]);
}

#[test]
fn signed_by_one_and_not_yet_by_the_other() {
    let story = explain(&at(100_000, vec![delivery("audit", "done")]));
    says(&history_of(&story).join("\n"), &["the broker has confirmed", "audit has signed it as done"]);
    says(&next_of(&story, Some("audit")).0, &["nothing more"]);
    says(&next_of(&story, Some("stock")).0, &["it has not signed yet", "is due about"]);
}

#[test]
fn done_everywhere() {
    let story = explain(&at(MINUTE, vec![delivery("audit", "done"), delivery("stock", "done")]));
    assert_eq!(next_of(&story, None), ("it is done everywhere: nothing more will happen".to_owned(), None));
    assert_eq!((story.next.len(), story.advice.len(), story.away.len()), (1, 0, 0));
}

#[test]
fn done_with_resends_in_between_is_told_in_order() {
    let history = [
        (3 * MINUTE, 2, "resending", ""),
        (3 * MINUTE + 5, 2, "resent", ""),
        (6 * MINUTE, 3, "resending", ""),
        (6 * MINUTE + 5, 3, "resent", ""),
        (7 * MINUTE, 3, "done", ""),
    ];
    let story = explain(&at(8 * MINUTE, vec![try_of(3, "done", &history), delivery("audit", "done")]));
    let told = history_of(&story);
    says(&told[2], &["ordered it sent again to stock", "attempt 2, resend 1 of 3"]);
    says(&told[3], &["upstream shop published it again", "attempt 2"]);
    says(&told[5], &["upstream shop published it again", "attempt 3, resend 2 of 3"]);
    says(&told[6], &["stock signed it as done", "attempt 3"]);
    let times: Vec<i64> = story.happened.iter().filter_map(|one| one.at_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn an_operators_resend_is_told_as_one() {
    let mut one = try_of(1, "resent", &[(MINUTE, 1, "resending", "redriven"), (MINUTE + 5, 1, "resent", "")]);
    for attempt in one.history.iter_mut().filter_map(|line| line.attempt.as_mut()).chain(one.attempt.as_mut()) {
        attempt.epoch = 1;
    }
    let story = explain(&at(2 * MINUTE, vec![one]));
    says(&history_of(&story).join("\n"), &["an operator had it sent again to stock (attempt 1 in epoch 1)"]);
    says(&next_of(&story, Some("stock")).0, &["attempt 1 in epoch 1", "is due about"]);
}

#[test]
fn what_is_parked_names_reason_and_remedy() {
    let story = explain(&at(10 * MINUTE, vec![parked("rejected: no such article")]));
    says(&history_of(&story).join("\n"), &["callback left it for a human, for stock: its handler refused it"]);
    says(&next_of(&story, Some("stock")).0, &["no such article", "attempt 4, resend 3 of 3"]);
    says(&story.advice.join("\n"), &["countersign redrive", ID, "--subscription stock", "dead letter"]);
    let old = explain(&at(604_800_000, vec![parked("rejected: no such article")]));
    says(&old.advice.join("\n"), &["too old", "dedup_retention_ms", "may happen a second time", "--allow-duplicate"]);
}

#[test]
fn what_operators_did_is_told_with_their_names() {
    let history = [
        (MINUTE, 1, "parked", "by ada: not now"),
        (2 * MINUTE, 1, "discarded", "by grace: sold out"),
        (3 * MINUTE, 1, "restored", "by ada"),
        (4 * MINUTE, 1, "resending", "redriven by ada: it is back"),
    ];
    let told = history_of(&explain(&at(10 * MINUTE, vec![try_of(1, "resending", &history)]))).join("\n");
    says(&told, &["an operator parked it for stock, by ada: not now", "an operator discarded it for stock, by grace: sold out"]);
    says(&told, &["an operator restored it for stock, by ada (", "an operator had it sent again to stock, by ada: it is back ("]);
}

#[test]
fn what_is_discarded_stays_so_until_it_is_restored() {
    let discarded =
        Delivery { reason: "operator".into(), ..try_of(1, "discarded", &[(MINUTE, 1, "discarded", "by grace: sold out")]) };
    let story = explain(&at(10 * MINUTE, vec![discarded]));
    says(&next_of(&story, Some("stock")).0, &["nothing", "discarded it"]);
    says(&story.advice.join("\n"), &["countersign restore", ID, "--subscription stock"]);
}

#[test]
fn where_a_second_effect_is_allowed_the_time_counts_from_the_redrive() {
    const RETENTION: i64 = 604_800_000;
    let risked = |redriven_after: i64| {
        let mut one = try_of(1, "parked", &[(redriven_after, 1, "resending", "redriven by ada, who allows a second effect")]);
        one.history[0].attempt = Some(Attempt { epoch: 1, number: 1 });
        Delivery { attempt: one.history[0].attempt, effect_epoch: 1, reason: "rejected".into(), ..one }
    };
    let story = explain(&at(RETENTION + MINUTE, vec![risked(RETENTION)]));
    assert!(!story.advice.join("\n").contains("too old"), "{story:?}");
    let story = explain(&at(2 * RETENTION + MINUTE, vec![risked(RETENTION)]));
    says(&story.advice.join("\n"), &["too old"]);
}

#[test]
fn probes_say_what_callback_waits_for() {
    let now = 5 * MINUTE;
    let asked = |since_ago: i64| {
        let lane = ProbeLane {
            latest: 3,
            latest_stored_at_ms: SENT + now - 500,
            unanswered_since_ms: SENT + now - since_ago,
            ..ProbeLane::default()
        };
        explain(&probed(now, lane, vec![]))
    };
    let fresh = asked(2_000);
    says(&next_of(&fresh, Some("stock")).0, &["a probe is on its way", "(2 s ago)"]);
    assert!(fresh.advice.is_empty(), "{fresh:?}");
    let silent = asked(2 * MINUTE);
    says(&next_of(&silent, Some("stock")).0, &["the probe of stock is unanswered since", "(2 min ago)", "slow or away"]);
    says(&silent.advice.join("\n"), &["check downstream for stock", "/health/ready"]);
    let answered = ProbeLane { latest: 1, latest_answered_at_ms: SENT + now - MINUTE, ..ProbeLane::default() };
    let story = explain(&probed(now, answered, vec![]));
    says(&next_of(&story, Some("stock")).0, &["answered", "(1 min ago)", "1 min 30 s", "resend 1 of 3"]);
}

#[test]
fn without_probes_a_time_out_decides() {
    for (known, words) in [(true, "signs no probes"), (false, "callback's topology does not have it")] {
        let mut asked = at(5 * MINUTE, vec![]);
        let mut outlook = outlook(5 * MINUTE, ProbeLane::default());
        outlook.subscriptions[1] = SubscriptionOutlook { subscription: "stock".into(), known, ..SubscriptionOutlook::default() };
        asked.outlook = Answer::Got(outlook);
        let story = explain(&asked);
        says(&next_of(&story, Some("stock")).0, &[words, "at the earliest", "(in 10 min)"]);
        assert_eq!(story.advice.is_empty(), known, "{story:?}");
    }
}

#[test]
fn what_is_too_old_is_not_promised_a_resend() {
    let story = explain(&at(604_800_001, vec![]));
    says(&next_of(&story, Some("stock")).0, &["too old to be sent again"]);
}

#[test]
fn unknown_ids() {
    let nobody = Known { message: Answer::Unknown, ..at(0, vec![]) };
    let story = explain(&nobody);
    says(&next_of(&story, None).0, &["neither upstream nor callback", "deleted after its retention"]);
    says(&story.advice.join("\n"), &["--upstream"]);
    assert!(story.happened.is_empty() && story.away.is_empty());
    let elsewhere = Known { message: Answer::Unknown, ..at(MINUTE, vec![delivery("stock", "done")]) };
    let story = explain(&elsewhere);
    says(&history_of(&story).join("\n"), &["deleted it after its retention", "a message of upstream shop", "stock has signed"]);
    says(&next_of(&story, Some("stock")).0, &["nothing more"]);
}

#[test]
fn a_service_that_is_away_leaves_a_gap_that_is_named() {
    let away = || "callback is away: refused".to_owned();
    let known = Known { deliveries: Answer::Away(away()), outlook: Answer::Unknown, local_now_ms: SENT, ..at(0, vec![]) };
    let story = explain(&known);
    assert_eq!(story.away, [away()]);
    says(&history_of(&story).join("\n"), &["upstream stored it", "the broker has confirmed"]);
    says(&next_of(&story, None).0, &["who has signed is not known here", "wait in their queues"]);
    says(&story.advice.join("\n"), &["--callback"]);
    let known = Known { message: Answer::Away("upstream is away".into()), ..at(MINUTE, vec![]) };
    let story = explain(&known);
    says(&next_of(&story, None).0, &["callback knows nothing of it", "only its upstream can say"]);
    let known = Known { message: Answer::Away("upstream is away".into()), ..at(MINUTE, vec![delivery("stock", "done")]) };
    says(&next_of(&explain(&known), Some("stock")).0, &["nothing more"]);
}

#[test]
fn an_older_callback_tells_no_times_and_none_are_made_up() {
    let known = Known { outlook: Answer::Unknown, local_now_ms: SENT + MINUTE, ..at(0, vec![]) };
    let (what, when) = next_of(&explain(&known), Some("stock"));
    says(&what, &["when its check comes due"]);
    assert_eq!(when, None);
}
