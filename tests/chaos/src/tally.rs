//! How often what has struck.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use crate::deck::Fault;
use crate::history::History;
use crate::servers::ServerFault;

/// Counts of one fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// It struck.
    pub struck: u64,
    /// It was meant to strike and did not: the point was not passed in time, or the broker was just away.
    pub missed: u64,
}

/// What has happened so far; written by everybody who disturbs or sends.
#[derive(Debug, Default)]
pub struct Tally {
    faults: Mutex<BTreeMap<String, Counts>>,
    history: Mutex<History>,
    kills: AtomicU64,
    stolen: AtomicU64,
    possible_duplicates: AtomicU64,
    over: AtomicBool,
}

impl Tally {
    /// Notes that a fault struck, or did not.
    pub fn note(&self, fault: impl fmt::Display, struck: bool) {
        let mut faults = lock(&self.faults);
        let counts = faults.entry(fault.to_string()).or_default();
        *(if struck { &mut counts.struck } else { &mut counts.missed }) += 1;
    }

    /// Notes that an upstream or the broker got SIGKILL.
    pub fn note_kill(&self) {
        self.kills.fetch_add(1, Ordering::Relaxed);
    }

    /// Processes that got SIGKILL: upstreams and brokers.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    /// Notes messages that vanished from the work queue.
    pub fn note_stolen(&self, messages: u64) {
        self.stolen.fetch_add(messages, Ordering::Relaxed);
    }

    /// Messages that vanished from the work queue.
    pub fn stolen(&self) -> u64 {
        self.stolen.load(Ordering::Relaxed)
    }

    /// Notes what one life of downstream has counted.
    pub fn note_possible_duplicates(&self, effects: u64) {
        self.possible_duplicates.fetch_add(effects, Ordering::Relaxed);
    }

    /// Effects that may have come once more, as downstream counted them.
    pub fn possible_duplicates(&self) -> u64 {
        self.possible_duplicates.load(Ordering::Relaxed)
    }

    /// The faults are over: the sender finishes what it has begun.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether the faults are over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The sender's book.
    pub fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// Counts of one fault.
    pub fn of(&self, fault: impl fmt::Display) -> Counts {
        lock(&self.faults).get(&fault.to_string()).copied().unwrap_or_default()
    }

    /// All faults in a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["fault", "struck", "missed, tried again"]);
        let faults = Fault::all().into_iter().map(|fault| fault.to_string());
        for name in faults.chain(ServerFault::ALL.map(|fault| fault.to_string())) {
            let Counts { struck, missed } = self.of(&name);
            table.add_row([name, struck.to_string(), missed.to_string()]);
        }
        table
    }

    /// One line about all of it.
    pub fn line(&self) -> String {
        let history = self.history();
        format!(
            "{} kills, {} messages stolen; sent {}, promised {}, calls without an answer {}, refused {}",
            self.kills(),
            self.stolen(),
            history.sent.len(),
            history.promised(),
            history.errors(),
            history.refused.len()
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
