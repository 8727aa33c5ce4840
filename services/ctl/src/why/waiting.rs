//! There is no receipt, or one whose time is over: when callback looks, what it waits for, and what it does then. Pure.

use countersign_wire::proto::{Attempt, Delivery, JudgingFigures, ProbeLane, SubscriptionOutlook};

use super::explain::{Next, Story, attempt_words};
use super::known::Known;
use super::span;

/// Says what comes for a subscription that has not signed.
pub(super) fn tell(known: &Known, subscription: &str, delivery: Option<&Delivery>, story: &mut Story) {
    let so_far = so_far(known, delivery);
    let Some(figures) = known.figures() else {
        let what =
            format!("{so_far}; callback looks for its receipt when its check comes due, and does not send it again before");
        return push(story, subscription, what, None);
    };
    let now = known.now_ms();
    let look = next_look(known, delivery, figures);
    let about = span::at(look, now);
    if look == first_look(known, delivery, figures) {
        let deed = deed(known, delivery, figures);
        let then = match known.outlook_of(subscription) {
            Some(outlook) if !outlook.probes => format!("waits for its time-out before it {deed}"),
            _ => format!("finds out by probes whether it is lost or only slow, and {deed} only if it is lost"),
        };
        let what =
            format!("{so_far}; the check of this attempt is due about {about}. If there is no receipt by then, callback {then}");
        return push(story, subscription, what, Some(look));
    }
    let then = then(known, delivery, figures);
    let outlook = known.outlook_of(subscription);
    let (waits_for, advice) = evidence(known, subscription, delivery, outlook, figures);
    let apart = figures.recheck_delays_ms.iter().max().copied().unwrap_or(figures.check_delay_ms);
    let what = format!(
        "{so_far}; {waits_for}. {then}. Callback looks again about {about}; its looks are at most {} apart",
        span::words(apart)
    );
    push(story, subscription, what, Some(look));
    story.advice.extend(advice);
}

fn push(story: &mut Story, subscription: &str, what: String, when_ms: Option<i64>) {
    story.next.push(Next { subscription: Some(subscription.to_owned()), what, when_ms });
}

/// The first words: how the delivery stands.
fn so_far(known: &Known, delivery: Option<&Delivery>) -> String {
    let now = known.now_ms();
    let Some(delivery) = delivery else { return "it has not signed yet".to_owned() };
    let until = span::at(delivery.live_until_ms, now);
    match delivery.state.as_str() {
        "processing" => format!("a consumer held it, but has not said more since {until}"),
        "retrying" => format!("it was to come again about {until}, and nothing was signed since"),
        _ => {
            let most = known.figures().map(|figures| figures.max_resends);
            format!("it has not signed {} yet", attempt_words(delivery.attempt, most))
        }
    }
}

/// When the check of the latest attempt comes due for the first time: about, since the broker counts from its own publish.
fn first_look(known: &Known, delivery: Option<&Delivery>, figures: &JudgingFigures) -> i64 {
    span::later(published_ms(known, delivery), figures.check_delay_ms)
}

/// When the latest attempt was published, as far as is known.
fn published_ms(known: &Known, delivery: Option<&Delivery>) -> i64 {
    let resent = delivery.and_then(|delivery| delivery.history.iter().rev().find(|line| line.what == "resent"));
    resent.map(|line| line.at_ms).or_else(|| known.sent_at_ms()).unwrap_or_default()
}

/// When callback is expected to look next, if nothing has held its looks up.
pub(super) fn next_look(known: &Known, delivery: Option<&Delivery>, figures: &JudgingFigures) -> i64 {
    let now = known.now_ms();
    let mut look = first_look(known, delivery, figures);
    for delay in &figures.recheck_delays_ms {
        if look > now {
            return look;
        }
        look = span::later(look, *delay);
    }
    let last = figures.recheck_delays_ms.last().copied().unwrap_or(figures.check_delay_ms).max(1);
    let missed = u64::try_from(now.saturating_sub(look)).map_or(0, |late| late / last + 1);
    span::later(look, missed.saturating_mul(last))
}

/// What callback waits for, and what an operator may look at meanwhile.
fn evidence(
    known: &Known,
    subscription: &str,
    delivery: Option<&Delivery>,
    outlook: Option<&SubscriptionOutlook>,
    figures: &JudgingFigures,
) -> (String, Option<String>) {
    let now = known.now_ms();
    match outlook {
        Some(SubscriptionOutlook { known: true, probes: true, lanes, .. }) => {
            probing(now, subscription, lane_of(delivery, lanes).copied().unwrap_or_default(), figures)
        }
        Some(SubscriptionOutlook { known: false, .. }) => (
            timeout(known, delivery, figures, "callback's topology does not have it"),
            Some(format!("bring {subscription} back into the topology file of callback, if it is still wanted")),
        ),
        _ => (timeout(known, delivery, figures, "its consumer signs no probes"), None),
    }
}

/// The lane of the retry tier it waited in, if the topology still has that one; else the straight one.
fn lane_of<'a>(delivery: Option<&Delivery>, lanes: &'a [ProbeLane]) -> Option<&'a ProbeLane> {
    let tier = delivery.filter(|delivery| delivery.state == "retrying").map_or(0, |delivery| delivery.retry_delay_ms);
    lanes.iter().find(|lane| lane.retry_delay_ms == tier).or_else(|| lanes.first())
}

fn timeout(known: &Known, delivery: Option<&Delivery>, figures: &JudgingFigures, why: &str) -> String {
    let at = span::later(published_ms(known, delivery), figures.unprobed_timeout_ms);
    format!("{why}, so a time-out decides: it counts as lost at the earliest {}", span::at(at, known.now_ms()))
}

fn probing(now: i64, subscription: &str, lane: ProbeLane, figures: &JudgingFigures) -> (String, Option<String>) {
    let since = lane.unanswered_since_ms;
    if since > 0 {
        let at = span::at(since, now);
        if u64::try_from(now.saturating_sub(since)).unwrap_or(0) < figures.probe_replace_ms {
            return (format!("a probe is on its way through its queue since {at}, and callback waits for the answer"), None);
        }
        let what = format!(
            "callback waits, because the probe of {subscription} is unanswered since {at}: its consumer is slow or away, and slow is \
             not lost"
        );
        let advice =
            format!("check downstream for {subscription}: that it runs, what its /health/ready says, how its handler fares");
        return (what, Some(advice));
    }
    if lane.latest == 0 {
        return ("callback sends a probe through its queue, and waits for the answer".to_owned(), None);
    }
    let what = format!(
        "probes come through (the last was answered {}): its consumer reads the queue; it counts as lost once a second \
         probe, sent at least {} after the answer to a first one, has come through as well",
        span::at(lane.latest_answered_at_ms, now),
        span::words(figures.probe_grace_ms)
    );
    (what, None)
}

/// What callback does with what is lost, in three words.
fn deed(known: &Known, delivery: Option<&Delivery>, figures: &JudgingFigures) -> &'static str {
    let number = delivery.and_then(|delivery| delivery.attempt).map_or(1, |attempt| attempt.number);
    if known.is_expired(delivery) || number > figures.max_resends { "leaves it for a human" } else { "has it sent again" }
}

/// What happens when it counts as lost.
fn then(known: &Known, delivery: Option<&Delivery>, figures: &JudgingFigures) -> String {
    let Attempt { epoch, number } = delivery.and_then(|delivery| delivery.attempt).unwrap_or(Attempt { epoch: 0, number: 1 });
    if known.is_expired(delivery) {
        "If it counts as lost it is left for a human: it is too old to be sent again".to_owned()
    } else if number > figures.max_resends {
        format!("If it counts as lost it is left for a human: all {} resends are used", figures.max_resends)
    } else {
        let next = Attempt { epoch, number: number.saturating_add(1) };
        format!("If it counts as lost it is sent again, as {}", attempt_words(Some(next), Some(figures.max_resends)))
    }
}
