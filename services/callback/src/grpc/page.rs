//! Filters and page tokens. A token is opaque to callers: it names the last row of a page and the filter it belongs to.

use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::{Fingerprint, MessageId, SubscriptionName};
use tonic::Status;

/// The words a filter may name.
pub(super) const STATES: [&str; 8] = ["done", "processing", "retrying", "failed", "resending", "resent", "parked", "discarded"];
/// Leads every token; another form gets another letter.
const FORM: &str = "a";
/// Hexadecimal digits that stand for the filter.
const FILTER_DIGITS: usize = 8;

/// Checks a filter's states; sorted, without repeats.
pub(super) fn states(mut states: Vec<String>) -> Result<Vec<String>, Status> {
    if let Some(unknown) = states.iter().find(|word| !STATES.contains(&word.as_str())) {
        let unknown: String = unknown.chars().take(40).collect();
        return Err(Status::invalid_argument(format!("states: {unknown:?} is not a state; valid are {}", STATES.join(", "))));
    }
    states.sort_unstable();
    states.dedup();
    Ok(states)
}

/// The token of the page after `last`.
pub(super) fn token(last: &DeliveryKey, states: &[String], subscription: Option<&SubscriptionName>) -> String {
    format!("{FORM}{}{}{}", filter_digits(states, subscription), last.message_id.uuid().simple(), last.subscription)
}

/// The row that a token names; none for the empty token.
pub(super) fn read(
    token: &str,
    states: &[String],
    subscription: Option<&SubscriptionName>,
) -> Result<Option<DeliveryKey>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong =
        || Status::invalid_argument("page_token: not a token of ListDeliveries; give the next_page_token of the page before");
    let rest = token.strip_prefix(FORM).filter(|rest| rest.is_ascii() && rest.len() > FILTER_DIGITS + 32).ok_or_else(wrong)?;
    let (filter, rest) = rest.split_at(FILTER_DIGITS);
    if filter != filter_digits(states, subscription) {
        return Err(Status::invalid_argument(
            "page_token: belongs to another filter; keep states and subscription from page to page",
        ));
    }
    let (id, name) = rest.split_at(32);
    let message_id = MessageId::parse(id).map_err(|_| wrong())?;
    let subscription = SubscriptionName::new(name).map_err(|_| wrong())?;
    Ok(Some(DeliveryKey { message_id, subscription }))
}

fn filter_digits(states: &[String], subscription: Option<&SubscriptionName>) -> String {
    let subscription = subscription.map_or("", SubscriptionName::as_str);
    let mut digits = Fingerprint::of("page", subscription, states.join(",").as_bytes()).to_hex();
    digits.truncate(FILTER_DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DeliveryKey {
        DeliveryKey {
            message_id: MessageId::parse("0190b8a0-0000-7000-8000-000000000001").unwrap(),
            subscription: SubscriptionName::new("inventory.orders").unwrap(),
        }
    }

    #[test]
    fn a_token_names_the_row_it_was_made_of() {
        let states = states(vec!["parked".into(), "failed".into(), "parked".into()]).unwrap();
        assert_eq!(states, ["failed", "parked"]);
        let token = token(&key(), &states, None);
        assert_eq!(read(&token, &states, None).unwrap(), Some(key()));
        assert_eq!(read("", &states, None).unwrap(), None);
    }

    #[test]
    fn a_token_of_another_filter_or_of_nobody_is_refused() {
        let token = token(&key(), &[], None);
        let other = SubscriptionName::new("audit").unwrap();
        for (token, subscription) in [(token.as_str(), Some(&other)), ("x", None), (&token[..30], None), ("ä", None)] {
            assert_eq!(read(token, &[], subscription).unwrap_err().code(), tonic::Code::InvalidArgument, "{token}");
        }
    }

    #[test]
    fn an_unknown_state_is_answered_with_the_known_ones() {
        let error = states(vec!["lost".into()]).unwrap_err();
        for word in STATES {
            assert!(error.message().contains(word), "{word} in {}", error.message());
        }
    }
}
