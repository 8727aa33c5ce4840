//! The tables at the end, the verdict, and the exit code that goes with it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use countersign_launcher::Counts;

use crate::faults::Struck;
use crate::schedule::Fault;
use crate::signatures::Signatures;

const SENDER: &str = "countersign send";
const SHOP: &str = "the shop's own database";
const CALLBACK: &str = "callback";

/// What happened, from independent books: the sender's, the shop's, callback's and the broker's.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// In the files that were sent.
    pub orders: u64,
    /// What drew the points.
    pub seed: u64,
    /// Accepted for the first time.
    pub accepted: u64,
    /// Accepted before: the answer was lost with upstream, and the command asked again.
    pub known: u64,
    /// Refused for good.
    pub refused: u64,
    /// The shop's own book.
    pub shop: Counts,
    /// Callback's book; none without callback.
    pub signatures: Option<Signatures>,
    /// By downstream, since it was killed.
    pub possible_duplicates: f64,
    /// Lines about a violated invariant in the logs of all services, over all their lives.
    pub violations: usize,
    /// What struck.
    pub struck: Vec<Struck>,
    /// What was not meant to strike, and why.
    pub left_out: Vec<(Fault, &'static str)>,
    /// Patience ended first.
    pub timed_out: bool,
    /// From the first order to the end.
    pub took: Duration,
    /// Where logs and databases are, if they were kept.
    pub kept: Option<PathBuf>,
}

impl Outcome {
    /// Prints tables and verdict. The code is 0 only if every order was applied exactly once and signed for, and every fault struck.
    pub fn print(&self) -> ExitCode {
        println!("\n{}\n\n{}\n", self.faults(), self.books());
        let complaints = self.complaints();
        for complaint in &complaints {
            println!("FAILED: {complaint}");
        }
        if let Some(kept) = &self.kept {
            println!("logs and databases are kept in {}", kept.display());
        }
        if self.signatures.is_none() {
            println!(
                "This is what callback is for: it misses the receipts, finds what is lost, and has it sent again. \
                 The same without --without-callback loses nothing: deploy/local/demo --orders {} --seed {}",
                self.orders, self.seed
            );
        }
        if !complaints.is_empty() {
            return ExitCode::from(1);
        }
        println!("every order was processed once and signed for, in {:.0} s; seed {}", self.took.as_secs_f64(), self.seed);
        ExitCode::SUCCESS
    }

    /// Whether something is wrong that was not asked for: logs and databases are worth a look.
    pub fn is_unexpected(&self) -> bool {
        self.signatures.is_some() && !self.complaints().is_empty()
    }

    fn books(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["what", "count", "by whose book"]);
        for (what, count, book) in self.counted() {
            table.add_row([what.to_owned(), count, book.to_owned()]);
        }
        table
    }

    fn counted(&self) -> Vec<(&'static str, String, &'static str)> {
        let by_callback = |count: fn(&Signatures) -> u64| {
            self.signatures.as_ref().map_or_else(|| "not running".to_owned(), |signatures| count(signatures).to_string())
        };
        vec![
            ("orders in the files", self.orders.to_string(), "the files"),
            ("sent (accepted)", (self.accepted + self.known).to_string(), SENDER),
            ("  of these asked again, and known", self.known.to_string(), SENDER),
            ("processed (distinct orders)", self.shop.orders.to_string(), SHOP),
            ("effects", self.shop.effects.to_string(), SHOP),
            ("calls of the handler", self.shop.calls.to_string(), SHOP),
            ("absorbed repeats", self.shop.duplicates.to_string(), SHOP),
            ("possible duplicates announced", format!("{:.0}", self.possible_duplicates), "downstream's metrics"),
            ("signed for", by_callback(|signatures| signatures.count("done")), CALLBACK),
            ("resends", by_callback(|signatures| signatures.resends), CALLBACK),
            ("parked", by_callback(|signatures| signatures.count("parked")), CALLBACK),
            ("violated invariants", self.violations.to_string(), "the services' logs"),
        ]
    }

    fn faults(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["fault", "fired", "evidence", "by whose book"]);
        for Struck { fault, times, evidence, book } in &self.struck {
            table.add_row([fault.to_string(), times.to_string(), evidence.clone(), (*book).to_owned()]);
        }
        for (fault, why) in &self.left_out {
            table.add_row([fault.to_string(), "left out".to_owned(), (*why).to_owned(), "the demo".to_owned()]);
        }
        table
    }

    /// What is wrong; empty when nothing is.
    fn complaints(&self) -> Vec<String> {
        let lost = self.orders.saturating_sub(self.shop.orders);
        let twice = self.shop.effects.saturating_sub(self.shop.orders);
        let mut complaints = Vec::new();
        let mut complain = |wrong: bool, what: String| {
            if wrong {
                complaints.push(what);
            }
        };
        complain(self.timed_out, "patience ended before every order was signed for (see --patience-s)".into());
        complain(
            self.accepted + self.known != self.orders,
            format!("{} of {} orders were accepted, {} refused", self.accepted + self.known, self.orders, self.refused),
        );
        complain(lost > 0, format!("{lost} orders are lost: accepted and confirmed, never processed"));
        complain(twice > 0, format!("{twice} orders were applied twice"));
        complain(self.violations > 0, format!("{} invariants were seen violated, see the logs of the services", self.violations));
        for fault in self.missing() {
            complain(true, format!("{fault}: it never struck, so this run shows nothing about it"));
        }
        complain(
            self.shop.duplicates == 0 && self.times(Fault::DownstreamKilled) > 0,
            "downstream died between effect and receipt, but the shop was not called again".into(),
        );
        complain(
            self.known == 0 && self.times(Fault::UpstreamKilled) > 0,
            "upstream died between commit and answer, but no order was asked for again".into(),
        );
        complaints.extend(self.complaints_about_signatures(lost));
        complaints
    }

    fn complaints_about_signatures(&self, lost: u64) -> Vec<String> {
        let Some(signatures) = &self.signatures else {
            let nothing = lost == 0 && !self.timed_out;
            return nothing
                .then(|| "nothing was lost without callback: the control shows nothing".to_owned())
                .into_iter()
                .collect();
        };
        let done = signatures.count("done");
        let rows = [
            (done != self.orders, format!("{done} of {} orders are signed for", self.orders)),
            (signatures.count("parked") > 0, format!("{} orders were left for a human", signatures.count("parked"))),
            (signatures.resends == 0, "nothing was sent again although messages were purged".to_owned()),
        ];
        rows.into_iter().filter_map(|(wrong, what)| wrong.then_some(what)).collect()
    }

    /// Faults that were meant to strike and did not.
    fn missing(&self) -> impl Iterator<Item = Fault> {
        let left_out = |fault: &Fault| self.left_out.iter().any(|(out, _)| out == fault);
        Fault::ALL.into_iter().filter(move |fault| !left_out(fault) && self.times(*fault) == 0)
    }

    fn times(&self, fault: Fault) -> u64 {
        self.struck.iter().filter(|struck| struck.fault == fault).map(|struck| struck.times).sum()
    }
}

#[cfg(test)]
mod tests;
