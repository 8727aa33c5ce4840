//! The audit as operators read it: newest first, in pages. A page token is opaque: it names the last row, and the filter it belongs to.

use countersign_delivery::ports::audit::{Act, AuditEntry, AuditFilter, CALLBACK};
use countersign_delivery::{Fingerprint, Timestamp};
use countersign_wire::proto::{self, ListAuditRequest, ListAuditResponse};
use tonic::Status;

use super::{message_id, page_size, status};
use crate::desk::Desk;
use crate::operate::BY_MAX;

/// Leads every token; another form gets another letter.
const FORM: &str = "u";
/// Where acts are carried out.
const SERVICES: [&str; 3] = [CALLBACK, "upstream", "downstream"];
/// Hexadecimal digits that stand for the filter.
const FILTER_DIGITS: usize = 8;

/// One page.
pub(super) async fn list(desk: &Desk, request: &ListAuditRequest) -> Result<ListAuditResponse, Status> {
    let filter = filter(request)?;
    let size = page_size(request.page_size);
    // One row more than asked for tells whether there is another page.
    let mut entries = desk.audit.entries(&filter, size + 1).await.map_err(|error| status(&error))?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let more = entries.len() > size;
    entries.truncate(size);
    let next_page_token = entries.last().filter(|_| more).map(|last| token(&filter, last.number)).unwrap_or_default();
    Ok(ListAuditResponse { entries: entries.into_iter().map(shown).collect(), next_page_token })
}

fn filter(request: &ListAuditRequest) -> Result<AuditFilter, Status> {
    let given = |word: &str| (!word.is_empty()).then(|| word.to_owned());
    if !request.act.is_empty() && Act::ALL.iter().all(|act| act.as_str() != request.act) {
        let unknown: String = request.act.chars().take(40).collect();
        let known = Act::ALL.map(Act::as_str).join(", ");
        return Err(Status::invalid_argument(format!("act: {unknown:?} is not an act; valid are {known}")));
    }
    if request.by.len() > BY_MAX {
        return Err(Status::invalid_argument(format!("by: has {} bytes, a name has at most {BY_MAX}", request.by.len())));
    }
    if !request.service.is_empty() && !SERVICES.contains(&request.service.as_str()) {
        let unknown: String = request.service.chars().take(40).collect();
        let words = format!("service: {unknown:?} carries out no acts; valid are {}", SERVICES.join(", "));
        return Err(Status::invalid_argument(words));
    }
    let target = given(&request.message_id).map(|id| message_id(&id)).transpose()?.map(|id| id.to_string());
    let filter =
        AuditFilter { act: given(&request.act), by: given(&request.by), target, service: given(&request.service), before: None };
    let before = read(&request.page_token, &filter)?;
    Ok(AuditFilter { before, ..filter })
}

/// The token of the page below this number.
fn token(filter: &AuditFilter, number: u64) -> String {
    format!("{FORM}{}{number}", digits(filter))
}

/// The number that a token names; none for the empty token.
fn read(token: &str, filter: &AuditFilter) -> Result<Option<u64>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || Status::invalid_argument("page_token: not a token of ListAudit; give the next_page_token of the page before");
    let rest = token.strip_prefix(FORM).filter(|rest| rest.is_ascii() && rest.len() > FILTER_DIGITS).ok_or_else(wrong)?;
    let (of, number) = rest.split_at(FILTER_DIGITS);
    if of != digits(filter) {
        return Err(Status::invalid_argument(
            "page_token: belongs to another filter; keep act, by, message_id and service from page to page",
        ));
    }
    number.parse().map(Some).map_err(|_| wrong())
}

fn digits(filter: &AuditFilter) -> String {
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    // Without a service as callbacks have it that know none.
    let service = filter.service.as_ref().map(|service| format!("\n{service}")).unwrap_or_default();
    let words = format!("{}\n{}{service}", word(&filter.target), word(&filter.by));
    let mut digits = Fingerprint::of("audit", &word(&filter.act), words.as_bytes()).to_hex();
    digits.truncate(FILTER_DIGITS);
    digits
}

fn shown(entry: AuditEntry) -> proto::AuditEntry {
    proto::AuditEntry {
        number: entry.number,
        at_ms: entry.at.as_millis(),
        ended_at_ms: entry.ended_at.map_or(0, Timestamp::as_millis),
        by: entry.by,
        act: entry.act,
        target: entry.target,
        subscription: entry.subscription,
        reason: entry.reason,
        result: entry.result.as_str().to_owned(),
        detail: entry.detail,
        service: entry.service,
        service_name: entry.service_name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_another_filter_or_of_nobody_is_refused() {
        let ada = AuditFilter { by: Some("ada".into()), ..AuditFilter::default() };
        let token = token(&ada, 7);
        assert_eq!(read(&token, &ada).unwrap(), Some(7));
        assert_eq!(read("", &ada).unwrap(), None);
        let all = AuditFilter::default();
        let at_upstream = AuditFilter { service: Some("upstream".into()), ..ada.clone() };
        for (token, filter) in [
            (token.as_str(), &all),
            (token.as_str(), &at_upstream),
            ("x", &ada),
            (&token[..6], &ada),
            (&format!("{token}x"), &ada),
            ("uä", &ada),
        ] {
            assert_eq!(read(token, filter).unwrap_err().code(), tonic::Code::InvalidArgument, "{token}");
        }
    }
}
