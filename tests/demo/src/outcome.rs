//! The table at the end, and the exit code that goes with it.

use std::process::ExitCode;

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use countersign_launcher::Effects;

use crate::signatures::Signatures;

/// What happened, from three independent books: the sender's, the shop's and callback's.
pub struct Outcome {
    pub orders: u64,
    pub accepted: u64,
    pub refused: u64,
    pub purged: u64,
    pub effects: Effects,
    pub signatures: Signatures,
    pub possible_duplicates: f64,
    pub violations: f64,
    pub timed_out: bool,
}

impl Outcome {
    /// Prints the table and the verdict. The code is 0 only if a loss was injected, and every order was applied exactly once and signed for.
    pub fn print(&self) -> ExitCode {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["what", "count", "by whose book"]);
        for (what, count, book) in self.rows() {
            table.add_row([what.to_owned(), count.to_string(), book.to_owned()]);
        }
        println!("\n{table}");
        let complaints = self.complaints();
        for complaint in &complaints {
            println!("FAILED: {complaint}");
        }
        if complaints.is_empty() {
            println!(
                "every order was processed once and signed for; {} of them were lost on the way and sent again",
                self.purged
            );
            ExitCode::SUCCESS
        } else {
            ExitCode::from(1)
        }
    }

    fn rows(&self) -> [(&'static str, u64, &'static str); 9] {
        [
            ("orders in the file", self.orders, "the file"),
            ("accepted", self.accepted, "countersign send"),
            ("lost by the purge", self.purged, "the broker"),
            ("orders processed", self.effects.distinct, "the shop's own database"),
            ("effects", self.effects.total, "the shop's own database"),
            ("calls of the handler", self.effects.calls, "the shop's own database"),
            ("signed for", self.signatures.count("done"), "callback"),
            ("sent again", self.signatures.resent, "callback"),
            ("parked", self.signatures.count("parked"), "callback"),
        ]
    }

    fn complaints(&self) -> Vec<String> {
        let checks = [
            (self.timed_out, "patience ended before every order was signed for (see --patience-s)".to_owned()),
            (self.purged == 0, "the queue was never purged: nothing was shown".to_owned()),
            (self.accepted != self.orders, format!("{} orders accepted, {} refused", self.accepted, self.refused)),
            (
                self.effects.distinct < self.orders,
                format!("{} orders were never processed", self.orders.saturating_sub(self.effects.distinct)),
            ),
            (
                self.effects.total > self.effects.distinct,
                format!("{} effects too many", self.effects.total - self.effects.distinct),
            ),
            (self.signatures.count("done") != self.orders, "not every order is signed for".to_owned()),
            (self.signatures.resent < self.purged, "fewer orders were sent again than were lost".to_owned()),
            (self.violations > 0.0, format!("{} invariants were seen violated", self.violations)),
            (self.possible_duplicates > 0.0, format!("{} possible duplicates without a crash", self.possible_duplicates)),
        ];
        checks.into_iter().filter_map(|(wrong, what)| wrong.then_some(what)).collect()
    }
}
