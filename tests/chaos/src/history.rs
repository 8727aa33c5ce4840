//! What the sender was told, and whether it agrees with what happened. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// What became of one idempotency key, as its sender saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The ids that were answered: one, however often it was asked.
    pub ids: BTreeSet<String>,
    /// Calls that ended with an answer.
    pub answers: u32,
    /// Calls that ended without one.
    pub errors: u32,
}

/// The sender's own book. A body stands for its key: each message has another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// By body, which the key is part of.
    pub sent: BTreeMap<String, Record>,
    /// Bodies that upstream refused, as it must.
    pub refused: BTreeSet<String>,
    /// What the sender was told and should not have been.
    pub wrong_answers: Vec<String>,
}

impl History {
    /// How many messages upstream has promised to deliver.
    #[must_use]
    pub fn promised(&self) -> usize {
        self.sent.values().filter(|record| record.answers > 0).count()
    }

    /// How many messages nobody promised anything about.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.sent.len() - self.promised()
    }

    /// Calls that ended without an answer.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.sent.values().map(|record| u64::from(record.errors)).sum()
    }
}

/// One effect in the handler's own database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The message's id.
    pub id: String,
    /// Its body.
    pub body: String,
}

/// What the other books say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// The handler's: every effect, repeats included.
    pub effects: Vec<Effect>,
    /// Upstream's: ids of the messages that were committed.
    pub stored: BTreeSet<String>,
    /// Callback's: ids of the messages that were signed for.
    pub signed: BTreeSet<String>,
    /// Effects that may have come once more, as downstream counted them.
    pub possible_duplicates: u64,
}

/// How many complaints of a kind are spelled out.
const SPELLED_OUT: usize = 5;

/// What does not agree, in words; empty: all is well.
#[must_use]
pub fn complaints(history: &History, books: &Books) -> Vec<String> {
    let mut by_body: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for effect in &books.effects {
        *by_body.entry(&effect.body).or_default().entry(&effect.id).or_default() += 1;
    }
    let mut found = history.wrong_answers.clone();
    let (mut lost, mut strange, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    for (body, record) in &history.sent {
        let effects = by_body.remove(body.as_str()).unwrap_or_default();
        if record.ids.len() > 1 {
            strange.push(format!("{body} was answered with {:?}", record.ids));
        }
        if effects.len() > 1 {
            strange.push(format!("{body} was handled as {:?}", effects.keys()));
        }
        if let Some(id) = record.ids.iter().find(|id| !effects.contains_key(id.as_str())) {
            lost.push(format!("{body} was promised as {id} and handled as {:?}", effects.keys()));
        }
        let times: u64 = effects.values().sum();
        if times > 1 {
            repeats.push((times - 1, format!("{body} was handled {times} times")));
        }
    }
    let was_refused = |body: &str| if history.refused.contains(body) { "refused" } else { "unknown" };
    let uninvited: Vec<_> = by_body.keys().map(|body| format!("{body} is {} and was handled", was_refused(body))).collect();
    let extra: u64 = repeats.iter().map(|(times, _)| times).sum();
    if extra <= books.possible_duplicates {
        repeats.clear();
    }
    let counted = books.possible_duplicates;
    say(&mut found, "promised and not handled", &lost);
    say(&mut found, "under two ids", &strange);
    say(&mut found, "handled and never sent, or refused", &uninvited);
    let repeats: Vec<_> = repeats.into_iter().map(|(_, words)| words).collect();
    say(&mut found, &format!("handled again, with {counted} possible duplicates counted"), &repeats);
    found.extend(between_books(books));
    found
}

/// The three books name the same messages.
fn between_books(books: &Books) -> Vec<String> {
    let handled: BTreeSet<String> = books.effects.iter().map(|effect| effect.id.clone()).collect();
    let mut found = Vec::new();
    let rows = [
        ("committed and not handled", &books.stored, &handled),
        ("handled and not committed", &handled, &books.stored),
        ("handled and not signed for", &handled, &books.signed),
        ("signed for and not handled", &books.signed, &handled),
    ];
    for (what, one, other) in rows {
        say(&mut found, what, &one.difference(other).cloned().collect::<Vec<_>>());
    }
    found
}

fn say(found: &mut Vec<String>, what: &str, each: &[String]) {
    if !each.is_empty() {
        let first = each.iter().take(SPELLED_OUT).cloned().collect::<Vec<_>>().join("; ");
        found.push(format!("{} {what}: {first}", each.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ids: &[&str]) -> Record {
        Record {
            ids: ids.iter().map(ToString::to_string).collect(),
            answers: u32::try_from(ids.len()).unwrap(),
            errors: u32::from(ids.is_empty()),
        }
    }

    fn history(sent: &[(&str, &[&str])], refused: &[&str]) -> History {
        History {
            sent: sent.iter().map(|(body, ids)| ((*body).to_owned(), record(ids))).collect(),
            refused: refused.iter().map(ToString::to_string).collect(),
            wrong_answers: Vec::new(),
        }
    }

    fn books(effects: &[(&str, &str)]) -> Books {
        let ids: BTreeSet<String> = effects.iter().map(|(id, _)| (*id).to_owned()).collect();
        let effects = effects.iter().map(|(id, body)| Effect { id: (*id).to_owned(), body: (*body).to_owned() });
        Books { effects: effects.collect(), stored: ids.clone(), signed: ids, possible_duplicates: 0 }
    }

    #[test]
    fn what_was_promised_was_handled_once_and_what_was_not_promised_at_most_once() {
        let history = history(&[("a", &["1"]), ("b", &[]), ("c", &[])], &["r"]);
        assert_eq!(complaints(&history, &books(&[("1", "a"), ("2", "b")])), Vec::<String>::new());
        assert_eq!((history.promised(), history.unanswered(), history.errors()), (1, 2, 2));
    }

    struct Wrong {
        sent: &'static [(&'static str, &'static [&'static str])],
        effects: &'static [(&'static str, &'static str)],
        word: &'static str,
    }

    #[test]
    fn each_way_to_be_wrong_has_its_word() {
        let rows = [
            Wrong { sent: &[("a", &["1"])], effects: &[], word: "promised and not handled" },
            Wrong { sent: &[("a", &["1"])], effects: &[("2", "a")], word: "promised and not handled" },
            Wrong { sent: &[("a", &["1"])], effects: &[("1", "a"), ("1", "a")], word: "handled again" },
            Wrong { sent: &[("a", &[])], effects: &[("1", "a"), ("2", "a")], word: "under two ids" },
            Wrong { sent: &[("a", &["1", "2"])], effects: &[("1", "a"), ("2", "a")], word: "under two ids" },
            Wrong { sent: &[], effects: &[("1", "r")], word: "r is refused and was handled" },
            Wrong { sent: &[], effects: &[("1", "x")], word: "x is unknown and was handled" },
        ];
        for Wrong { sent, effects, word } in rows {
            let found = complaints(&history(sent, &["r"]), &books(effects));
            assert!(found.iter().any(|words| words.contains(word)), "{sent:?} {effects:?}: {found:?}");
        }
    }

    #[test]
    fn a_repeat_is_excused_only_by_a_counted_possible_duplicate() {
        let (history, mut books) = (history(&[("a", &["1"])], &[]), books(&[("1", "a"), ("1", "a")]));
        books.possible_duplicates = 1;
        assert_eq!(complaints(&history, &books), Vec::<String>::new());
    }

    #[test]
    fn the_books_of_upstream_and_callback_must_name_what_the_handler_names() {
        let history = history(&[("a", &["1"])], &[]);
        let (agreed, none, more) = (books(&[("1", "a")]), BTreeSet::new(), BTreeSet::from(["1".to_owned(), "9".to_owned()]));
        let rows = [
            (Books { stored: more.clone(), ..agreed.clone() }, "committed and not handled: 9"),
            (Books { stored: none.clone(), ..agreed.clone() }, "handled and not committed: 1"),
            (Books { signed: more, ..agreed.clone() }, "signed for and not handled: 9"),
            (Books { signed: none, ..agreed }, "handled and not signed for: 1"),
        ];
        for (books, word) in rows {
            assert_eq!(complaints(&history, &books), [format!("1 {word}")]);
        }
    }

    #[test]
    fn a_wrong_answer_is_told() {
        let history = History { wrong_answers: vec!["w".into()], ..History::default() };
        assert_eq!(complaints(&history, &Books::default()), ["w"]);
    }
}
