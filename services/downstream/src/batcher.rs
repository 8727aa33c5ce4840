//! Natural batching: what many tasks ask for at the same time is done in one call.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Stop, Tasks};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Groups of requests that may wait for their batch; more wait at the door.
const QUEUE: usize = 1_024;

/// The bounds of one batcher.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most requests in one call; 1 switches batching off.
    pub max_batch: usize,
    /// How long a batch that has not enough waits for more.
    pub linger: Duration,
    /// So many requests are enough and wait for no more.
    pub enough: usize,
    /// Most calls under way at a time.
    pub calls: usize,
}

/// What is asked, and whom to answer.
pub type Request<T, R> = (T, oneshot::Sender<R>);

/// Requests that come together, and whether somebody is held up by them: then the batch does not linger.
type Group<T> = (Vec<T>, bool);

/// The door to one kind of call. All clones lead to the same batches; the worker ends when the last one is gone and all is answered.
pub struct Batcher<T, R> {
    door: mpsc::Sender<Group<Request<T, R>>>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self { door: self.door.clone() }
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts the worker. `call` gets what is to be done and answers in the same order; at hard stop it is dropped.
    pub fn start<F>(
        tasks: &Tasks,
        stop: &Stop,
        name: &'static str,
        limits: Limits,
        call: impl Fn(Vec<T>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<R>> + Send + 'static,
    {
        let (door, requests) = mpsc::channel(QUEUE);
        let call = Arc::new(call);
        let work = async move {
            serve(requests, limits, |batch: Vec<Request<T, R>>| {
                let (asked, answers): (Vec<T>, Vec<_>) = batch.into_iter().unzip();
                let doing = call(asked);
                async move {
                    for (answer, result) in answers.into_iter().zip(doing.await) {
                        // Whoever asked may be gone; what was done is done.
                        let _ = answer.send(result);
                    }
                }
            })
            .await;
        };
        let bounded = stop.hard_token().run_until_cancelled_owned(work);
        // Without it nothing can be settled any more, so a panic in it ends the process.
        tasks.critical(name, async move {
            bounded.await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { door }
    }

    /// Asks and waits for the answer; none when hard stop came first.
    pub async fn ask(&self, what: T) -> Option<R> {
        self.ask_one(what, false).await
    }

    /// The same, and the batch lingers no more.
    pub async fn ask_at_once(&self, what: T) -> Option<R> {
        self.ask_one(what, true).await
    }

    async fn ask_one(&self, what: T, at_once: bool) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        self.door.send((vec![(what, answer)], at_once)).await.ok()?;
        answered.await.ok()
    }

    /// Asks for all of these in one call, or as few as `max_batch` allows. At hard stop nobody is answered.
    pub async fn ask_together(&self, requests: Vec<Request<T, R>>) {
        let _ = self.door.send((requests, false)).await;
    }

    /// Asks without waiting. Returns false when too much waits already: the caller will have another chance.
    pub fn mention(&self, what: T) -> bool {
        self.door.try_send((vec![(what, oneshot::channel().0)], false)).is_ok()
    }
}

async fn serve<T, F: Future<Output = ()>>(mut requests: mpsc::Receiver<Group<T>>, limits: Limits, call: impl Fn(Vec<T>) -> F) {
    let max = limits.max_batch.max(1);
    let enough = limits.enough.clamp(1, max);
    let mut waiting: Vec<T> = Vec::with_capacity(max);
    let mut under_way = FuturesUnordered::new();
    let mut due: Option<Instant> = None;
    let mut open = true;
    loop {
        let now_due = waiting.len() >= enough || !open || due.is_some_and(|due| due <= Instant::now());
        if !waiting.is_empty() && now_due && under_way.len() < limits.calls.max(1) {
            let rest = waiting.split_off(waiting.len().min(max));
            under_way.push(call(std::mem::replace(&mut waiting, rest)));
            // What did not fit has waited as long.
            due = due.filter(|_| !waiting.is_empty());
            continue;
        }
        tokio::select! {
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            group = requests.recv(), if open && waiting.len() < max => {
                open = group.is_some();
                let (group, mut at_once) = group.unwrap_or_default();
                waiting.extend(group);
                // Whoever was woken by the same event asks now, too: one turn for them, which takes no time if there are none.
                tokio::task::yield_now().await;
                while waiting.len() < max && let Ok((group, hurries)) = requests.try_recv() {
                    waiting.extend(group);
                    at_once |= hurries;
                }
                let now = Instant::now();
                due = if at_once { Some(now) } else { due.or_else(|| Some(now + limits.linger)) };
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !now_due => {}
            else => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn limits(max_batch: usize, linger_ms: u64) -> Limits {
        Limits { max_batch, linger: Duration::from_millis(linger_ms), enough: max_batch, calls: 2 }
    }

    type Calls = Arc<Mutex<Vec<Vec<u32>>>>;

    fn recorder(limits: Limits) -> (Batcher<u32, u32>, Calls, Tasks) {
        let (stop, calls) = (Stop::default(), Calls::default());
        let tasks = Tasks::new(stop.clone());
        let seen = calls.clone();
        let batcher = Batcher::start(&tasks, &stop, "recorder", limits, move |batch: Vec<u32>| {
            seen.lock().unwrap().push(batch.clone());
            async move { batch.into_iter().map(|n| n * 10).collect() }
        });
        (batcher, calls, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_within_the_linger_shares_a_call_and_everyone_gets_their_own_answer() {
        let (batcher, calls, _tasks) = recorder(limits(3, 5));
        let answers = futures::join!(batcher.ask(1), batcher.ask(2), batcher.ask(3), batcher.ask(4));
        assert_eq!(answers, (Some(10), Some(20), Some(30), Some(40)));
        assert_eq!(*calls.lock().unwrap(), [vec![1, 2, 3], vec![4]]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_enough_waits_for_no_more_and_takes_what_is_there() {
        let (batcher, calls, _tasks) = recorder(Limits { enough: 2, ..limits(9, 60_000) });
        let begun = Instant::now();
        futures::join!(batcher.ask(1), batcher.ask(2), batcher.ask(3));
        assert_eq!((begun.elapsed(), &calls.lock().unwrap()[..]), (Duration::ZERO, &[vec![1, 2, 3]][..]));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_held_up_takes_the_batch_along() {
        let (batcher, calls, _tasks) = recorder(limits(9, 60_000));
        let begun = Instant::now();
        futures::join!(batcher.ask(1), async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            batcher.ask_at_once(2).await
        });
        assert_eq!((begun.elapsed(), &calls.lock().unwrap()[..]), (Duration::from_millis(5), &[vec![1, 2]][..]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_of_one_is_no_batch() {
        let (batcher, calls, _tasks) = recorder(limits(1, 5));
        futures::join!(batcher.ask(1), batcher.ask(2));
        assert_eq!(*calls.lock().unwrap(), [vec![1], vec![2]]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_worker_answers_what_it_was_asked_before_the_door_closed() {
        let (batcher, calls, tasks) = recorder(limits(9, 60_000));
        assert!(batcher.mention(1));
        drop(batcher);
        assert!(tasks.drained(Duration::from_secs(1)).await);
        assert_eq!(*calls.lock().unwrap(), [vec![1]]);
    }
}
