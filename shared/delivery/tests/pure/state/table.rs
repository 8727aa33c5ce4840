//! Tables to be read by eye: one line a state, one column an event; and the states they name.

use super::*;

/// The lines of a table that are still to come.
pub struct Table(std::vec::IntoIter<Vec<&'static str>>);

impl Table {
    /// Without its head.
    pub fn of(text: &'static str) -> Self {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let rows = lines.skip(1).map(|line| line.split('|').map(str::trim).collect());
        Self(rows.collect::<Vec<_>>().into_iter())
    }

    /// The next line begins with this state, and says what all of its variants answered.
    pub fn next_is(&mut self, state: [&str; 2], answers: &[Vec<String>]) {
        let line = self.0.next().unwrap_or_else(|| panic!("no line for {state:?}"));
        assert_eq!(line[..2], state, "the state of the line {line:?}");
        assert!(!answers.is_empty(), "{state:?} was tried");
        for answer in answers {
            assert_eq!(line[2..], answer[..], "the table on the left: {state:?}");
        }
    }

    /// No line is left.
    pub fn ends(mut self) {
        assert_eq!(self.0.next(), None, "a line for no state");
    }
}

pub fn shown(attempt: Attempt) -> String {
    format!("{}.{}", attempt.epoch, attempt.number)
}

pub fn unsaid() -> (String, Vec<Signed>) {
    ("nothing".into(), vec![Signed::Nothing])
}

/// Every word but `done`.
pub fn said_of(attempt: Attempt) -> (String, Vec<Signed>) {
    let retrying = Signed::Retrying { attempt, delay_ms: 9, detail: "busy".into() };
    let failed = Signed::Failed { attempt, reason: FailReason::Rejected, detail: "why".into() };
    (format!("said {}", shown(attempt)), vec![Signed::Processing { attempt }, retrying, failed])
}

pub fn done_of(attempt: Attempt) -> (String, Vec<Signed>) {
    (format!("done {}", shown(attempt)), vec![Signed::Done { attempt }])
}

/// Every command there is.
pub fn commands_of(attempt: Attempt, reason: &ParkReason) -> [(String, Vec<Command>); 5] {
    let reason = || reason.clone();
    let held = Command::Resending { attempt, lease_until: at(10), unknown_answers: 0 };
    let free = Command::Resending { attempt, lease_until: NOW, unknown_answers: 1 };
    let at = shown(attempt);
    [
        ("none".into(), vec![Command::None]),
        (format!("resending {at}"), vec![held, free]),
        (format!("resent {at}"), vec![Command::Resent { attempt }]),
        (format!("parked {at}"), vec![Command::Parked { attempt, reason: reason() }]),
        (format!("discarded {at}"), vec![Command::Discarded { attempt, reason: reason() }]),
    ]
}

/// Each of these words with each of these commands, believed or not.
pub fn rows(words: &[Signed], commands: &[Command], effect_epochs: &[u32]) -> Vec<Delivery> {
    let mut rows = Vec::new();
    for (signed, command) in words.iter().flat_map(|signed| commands.iter().map(move |command| (signed, command))) {
        for live_until in [None, Some(at(-50)), Some(at(50))] {
            let row = delivery(signed.clone(), command.clone(), live_until);
            rows.extend(effect_epochs.iter().map(|epoch| Delivery { effect_epoch: *epoch, ..row.clone() }));
        }
    }
    rows
}
