//! `countersign reconcile`: what upstreams have stored against what was signed for.

use clap::Args;
use countersign_wire::proto::{Certificate, CertificateLine, CertificateState, ListCertificatesRequest, ReconcileRequest};
use serde_json::{Value, json};

use crate::dead::select::{moment, now};
use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

/// What the help ends with.
pub const CODES: &str = "\
Exit codes:
  0  everything stored is verified, in flight, parked or discarded
  1  something is missing (it is being checked now), skipped, or too old or too young to compare
  2  the input cannot be used
  3  callback or an upstream did not answer";

#[derive(Args)]
pub struct ReconcileArgs {
    /// From when on: an age such as 30m, 2h or 3d, or a time such as 2026-01-31T12:00:00Z; brought down to a whole minute.
    #[arg(long, required_unless_present = "last")]
    since: Option<String>,
    /// Until when, likewise; as late as can be certified if it is not given.
    #[arg(long)]
    until: Option<String>,
    // Not called `upstream`: that is the service's address, which every verb has.
    /// Only this upstream; may be repeated, or separated by commas.
    #[arg(long = "from", value_name = "UPSTREAM", value_delimiter = ',')]
    upstreams: Vec<String>,
    /// Only say what is missing; have nothing checked.
    #[arg(long)]
    dry_run: bool,
    /// Who asks, for the log of callback; at most 64 bytes.
    #[arg(long, default_value = "")]
    by: String,
    /// How long to wait for the answer, milliseconds; callback goes on without a listener, and --last shows what came of it.
    #[arg(long, default_value_t = 600_000)]
    wait_ms: u64,
    /// Show the last certificate of each upstream instead.
    #[arg(long, conflicts_with_all = ["since", "until", "upstreams", "dry_run", "by"])]
    last: bool,
}

pub async fn run(target: &Target, args: ReconcileArgs) -> anyhow::Result<Done> {
    let certificates = if args.last {
        let mut callback = client::reconciliation(target, target.timeout_ms).await?;
        callback.list_certificates(ListCertificatesRequest {}).await?.into_inner().certificates
    } else {
        let now_ms = now();
        let time = |option: &str, text: Option<String>| text.map_or(Ok(0), |text| moment(option, &text, now_ms));
        let request = ReconcileRequest {
            since_ms: time("--since", args.since)?,
            until_ms: time("--until", args.until)?,
            upstreams: args.upstreams,
            validate_only: args.dry_run,
            by: args.by,
        };
        client::reconciliation(target, args.wait_ms).await?.reconcile(request).await?.into_inner().certificates
    };
    let json = json!({"certificates": certificates.iter().map(as_json).collect::<Vec<_>>()});
    output::print(target.output, &json, || match certificates.as_slice() {
        [] => "no upstream is known to callback yet".to_owned(),
        some => some.iter().map(in_words).collect::<Vec<_>>().join("\n\n"),
    });
    Ok(outcome(&certificates))
}

/// The worst of them.
fn outcome(certificates: &[Certificate]) -> Done {
    let any = |wanted| certificates.iter().any(|certificate| certificate.state() == wanted);
    if any(CertificateState::Unreachable) || any(CertificateState::Unspecified) {
        Done::Away
    } else if certificates.iter().all(|certificate| certificate.state() == CertificateState::Certified) {
        Done::All
    } else {
        Done::Partly
    }
}

const fn word(state: CertificateState) -> &'static str {
    match state {
        CertificateState::Unspecified => "unspecified",
        CertificateState::Certified => "certified",
        CertificateState::Differs => "differs",
        CertificateState::Expired => "expired",
        CertificateState::Skipped => "skipped",
        CertificateState::Unreachable => "unreachable",
    }
}

fn in_words(certificate: &Certificate) -> String {
    let (since, until) = (output::time(certificate.compared_since_ms), output::time(certificate.compared_until_ms));
    let compared = if certificate.compared_since_ms < certificate.compared_until_ms {
        format!(", {since} to {until}, in {} ms", certificate.took_ms)
    } else {
        String::new()
    };
    let mut text = vec![format!("upstream {}: {}{compared}", certificate.upstream, word(certificate.state()))];
    text.extend(
        certificate.lines.iter().map(|line| format!("  {} {}: {}", line.subscription, word(line.state()), sum_in_words(line))),
    );
    if certificate.lines.len() > 1 {
        text.push(format!("  {}", sum_in_words(&sum(&certificate.lines))));
    }
    if !certificate.detail.is_empty() {
        text.push(format!("  note: {}", certificate.detail));
    }
    text.join("\n")
}

fn sum(lines: &[CertificateLine]) -> CertificateLine {
    let of = |count: fn(&CertificateLine) -> u64| lines.iter().map(count).sum();
    CertificateLine {
        stored: of(|line| line.stored),
        verified: of(|line| line.verified),
        in_flight: of(|line| line.in_flight),
        parked: of(|line| line.parked),
        discarded: of(|line| line.discarded),
        missing: of(|line| line.missing),
        ..CertificateLine::default()
    }
}

/// What is stored and in no count was not compared.
const fn skipped(line: &CertificateLine) -> u64 {
    line.stored.saturating_sub(line.verified + line.in_flight + line.parked + line.discarded + line.missing)
}

fn sum_in_words(line: &CertificateLine) -> String {
    let [stored, verified, in_flight, parked, discarded, missing, skipped] =
        [line.stored, line.verified, line.in_flight, line.parked, line.discarded, line.missing, skipped(line)].map(grouped);
    let words = format!(
        "stored {stored} = verified {verified} + in flight {in_flight} + parked {parked} + discarded {discarded}, missing {missing}"
    );
    if skipped == "0" { words } else { format!("{words}, not compared {skipped}") }
}

/// `1,000,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn as_json(certificate: &Certificate) -> Value {
    let lines = certificate.lines.iter().map(|line| {
        json!({
            "subscription": line.subscription, "state": word(line.state()), "stored": line.stored, "verified": line.verified,
            "in_flight": line.in_flight, "parked": line.parked, "discarded": line.discarded, "missing": line.missing,
            "not_compared": skipped(line), "minutes_compared": line.minutes_compared, "missing_ids": line.missing_ids,
        })
    });
    json!({
        "upstream": certificate.upstream,
        "state": word(certificate.state()),
        "since": output::time(certificate.since_ms),
        "until": output::time(certificate.until_ms),
        "compared_since": output::time(certificate.compared_since_ms),
        "compared_until": output::time(certificate.compared_until_ms),
        "detail": certificate.detail,
        "at": output::time(certificate.at_ms),
        "took_ms": certificate.took_ms,
        "lines": lines.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(state: CertificateState) -> Certificate {
        Certificate { state: state.into(), ..Certificate::default() }
    }

    #[test]
    fn the_worst_certificate_names_the_exit_code() {
        use CertificateState::{Certified, Differs, Expired, Skipped, Unreachable};
        let rows: [(&[CertificateState], Done); 6] = [
            (&[], Done::All),
            (&[Certified, Certified], Done::All),
            (&[Certified, Differs], Done::Partly),
            (&[Skipped], Done::Partly),
            (&[Expired], Done::Partly),
            (&[Differs, Unreachable], Done::Away),
        ];
        for (states, expected) in rows {
            let certificates: Vec<_> = states.iter().map(|state| certificate(*state)).collect();
            assert_eq!(outcome(&certificates), expected, "{states:?}");
        }
    }

    #[test]
    fn a_line_adds_up_in_words() {
        let line =
            CertificateLine { stored: 1_000_000, verified: 999_990, in_flight: 4, parked: 6, ..CertificateLine::default() };
        let words = "stored 1,000,000 = verified 999,990 + in flight 4 + parked 6 + discarded 0, missing 0";
        assert_eq!(sum_in_words(&line), words);
        let skipped = CertificateLine { stored: 1_000_012, ..line };
        assert!(sum_in_words(&skipped).ends_with("missing 0, not compared 12"), "{}", sum_in_words(&skipped));
    }
}
