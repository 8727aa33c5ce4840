//! `countersign send --file`: every record a message, in batches, repeatable without sending anything twice.
//!
//! A thread reads ([`records`]) and fills batches ([`batch`]); up to [`IN_FLIGHT`] of them are under way ([`mod@deliver`]); answers are
//! counted and written down in the order of the file ([`tally`]).
//!
//! **Invariant:** of two records with one key the first one in the file decides. No key is in two batches at a time, and within a
//! batch a key's later records wait for its first.

mod batch;
mod csv;
mod deliver;
mod jsonl;
mod records;
pub mod signals;
mod tally;

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use countersign_boot::client::Authorized;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client;
use crate::exit::{Done, Stopped};
use crate::send::SendArgs;
use crate::send_file::batch::{Batch, Filler};
use crate::send_file::deliver::{Delivered, deliver};
use crate::send_file::records::{FileFormat, Records};
use crate::send_file::signals::Signals;
use crate::send_file::tally::Tally;
use crate::target::Target;

/// Batches under way at a time. A second one is read and stored while the broker confirms the first; a third one only waits.
const IN_FLIGHT: usize = 2;
/// Batches read ahead.
const READ_AHEAD: usize = 1;

/// What `send` is told about a file.
#[derive(Args)]
#[command(next_help_heading = "From a file")]
pub struct FileArgs {
    /// A file of JSON objects, one a line (.jsonl, .ndjson), or of rows under a header (.csv); `-` for standard input.
    ///
    /// Each line, or each row as a JSON object of its columns, is the body of one message.
    #[arg(long, requires = "id_field")]
    pub file: Option<PathBuf>,
    /// The field or column that is the idempotency key of its record.
    #[arg(long, requires = "file", value_name = "NAME")]
    pub id_field: Option<String>,
    /// What the file holds, if its name does not tell.
    #[arg(long, requires = "file", value_enum)]
    pub format: Option<FileFormat>,
    /// Write {"line", "key", "id", "duplicate"} of each accepted record here; written anew by each run.
    #[arg(long, requires = "file", value_name = "FILE")]
    pub ids: Option<PathBuf>,
    /// Write {"line", "key", "why"} of each rejected record here; written anew by each run.
    #[arg(long, requires = "file", value_name = "FILE")]
    pub rejected: Option<PathBuf>,
    /// How long to go on trying to send a batch while upstream does not take it, milliseconds.
    #[arg(long, default_value_t = 60_000)]
    pub patience_ms: u64,
}

pub async fn run(target: &Target, args: SendArgs, file: &Path, id_field: String) -> anyhow::Result<Done> {
    let mut signals = Signals::new()?;
    let patience = Duration::from_millis(args.from.patience_ms);
    let format = records::format_of(file, args.from.format)?;
    let bar = progress_bar(file)?;
    let (ids, rejected) = (args.from.ids.clone(), args.from.rejected.clone());
    let mut batches = read_ahead(file.to_owned(), format, id_field, args);
    // First of all, so that a file that cannot be sent is told before anything is asked of upstream or written.
    let first = tokio::select! {
        signal = signals.next() => bail!(stopped(signal, 0)),
        first = batches.recv() => first.transpose()?,
    };
    let tally = Tally::new(file, ids.as_deref(), rejected.as_deref())?;
    let Some(first) = first else {
        tally.print(target.output);
        return Ok(Done::All);
    };
    let upstream = tokio::select! {
        signal = signals.next() => bail!(stopped(signal, 0)),
        upstream = client::upstream(target) => upstream?,
    };
    let mut sending = Sending::new(upstream, patience, tally, bar);
    let ended = sending.run(first, batches, &mut signals).await;
    sending.bar.finish_and_clear();
    // However it ended: what was answered is told.
    sending.tally.print(target.output);
    ended?;
    Ok(if sending.tally.rejected == 0 { Done::All } else { Done::Partly })
}

fn progress_bar(file: &Path) -> anyhow::Result<ProgressBar> {
    if records::is_standard_input(file) {
        return Ok(ProgressBar::new_spinner());
    }
    // 0 for a file that cannot be read: its reader says so.
    let bar = ProgressBar::new(std::fs::metadata(file).map_or(0, |file| file.len()));
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent:>3} % {msg} {elapsed} left {eta}")?);
    Ok(bar)
}

/// Reads the file in a thread of its own, which a signal need not wait for. What comes last is an error, if there is one.
fn read_ahead(file: PathBuf, format: FileFormat, id_field: String, args: SendArgs) -> mpsc::Receiver<anyhow::Result<Batch>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let read = || {
            let mut filler = Filler::new(&args);
            let mut records = Records::open(&file, format, id_field)?;
            while let Some(record) = records.next()? {
                if let Some(full) = filler.add(record)
                    && sender.blocking_send(Ok(full)).is_err()
                {
                    return Ok(());
                }
            }
            // A receiver that is gone wants no more.
            let _ = filler.rest().map(|rest| sender.blocking_send(Ok(rest)));
            Ok(())
        };
        if let Err(error) = read() {
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

/// Batches on their way.
struct Sending {
    upstream: UpstreamServiceClient<Authorized>,
    patience: Duration,
    /// Ends the retries of what is under way.
    stop: CancellationToken,
    flights: FuturesOrdered<BoxFuture<'static, Delivered>>,
    /// The keys of all batches under way.
    keys: HashSet<Arc<str>>,
    /// What is not under way yet, in the order of the file.
    waiting: VecDeque<Batch>,
    tally: Tally,
    bar: ProgressBar,
}

impl Sending {
    fn new(upstream: UpstreamServiceClient<Authorized>, patience: Duration, tally: Tally, bar: ProgressBar) -> Self {
        Self {
            upstream,
            patience,
            stop: CancellationToken::new(),
            flights: FuturesOrdered::new(),
            keys: HashSet::new(),
            waiting: VecDeque::new(),
            tally,
            bar,
        }
    }

    /// Sends everything. After a failure or a signal nothing more is begun; what is under way is still answered.
    async fn run(
        &mut self,
        first: Batch,
        mut batches: mpsc::Receiver<anyhow::Result<Batch>>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        self.waiting.push_back(first);
        let (mut failure, mut stopped_by, mut more) = (None, None, true);
        loop {
            if self.stop.is_cancelled() {
                self.waiting.clear();
            }
            self.begin();
            let may_read = more && self.waiting.is_empty() && !self.stop.is_cancelled();
            if self.flights.is_empty() && !may_read {
                break;
            }
            tokio::select! {
                signal = signals.next() => {
                    if stopped_by.replace(signal).is_some() {
                        break;
                    }
                    self.stop.cancel();
                }
                Some(delivered) = self.flights.next(), if !self.flights.is_empty() => {
                    if let Err(error) = self.answered(delivered) {
                        failure.get_or_insert(error);
                        self.stop.cancel();
                    }
                }
                batch = batches.recv(), if may_read => match batch {
                    Some(Ok(batch)) => self.waiting.push_back(batch),
                    Some(Err(error)) => {
                        // Everything in front of it is sound and goes on.
                        failure.get_or_insert(error);
                        more = false;
                    }
                    None => more = false,
                },
            }
        }
        match (stopped_by, failure) {
            (Some(signal), _) => bail!(stopped(signal, self.tally.answered())),
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(()),
        }
    }

    /// Sends what waits, as long as there is room and none of its keys is under way.
    fn begin(&mut self) {
        while self.flights.len() < IN_FLIGHT
            && let Some(batch) = self.waiting.pop_front_if(|batch| batch.keys().all(|key| !self.keys.contains(key)))
        {
            self.keys.extend(batch.keys().cloned());
            let flight = deliver(self.upstream.clone(), batch, self.patience, self.stop.clone());
            self.flights.push_back(Box::pin(flight));
        }
    }

    fn answered(&mut self, delivered: Delivered) -> anyhow::Result<()> {
        let Delivered { batch, failure } = delivered;
        for key in batch.keys() {
            self.keys.remove(key);
        }
        self.tally.take(&batch)?;
        self.bar.inc(batch.read_bytes);
        self.bar.set_message(self.tally.sum());
        failure.map_or(Ok(()), Err)
    }
}

fn stopped(signal: u8, answered: u64) -> Stopped {
    let words = format!("stopped; {answered} lines were answered. The same command goes on from there: nothing is sent twice");
    Stopped { signal, words }
}
