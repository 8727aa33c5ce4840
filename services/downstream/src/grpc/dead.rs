//! `DeadLetterService`: checks what is asked, has it done, and puts it into words.

mod words;

use std::pin::Pin;
use std::sync::Arc;

use countersign_telemetry::{names, with_sources};
use countersign_wire::proto;
use countersign_wire::proto::dead_letter_service_server::DeadLetterService;
use countersign_wire::proto::{
    DeadLetterEvent, DeadLetterFilter, DiscardDeadLettersRequest, DiscardDeadLettersResponse, GetDeadLetterRequest,
    GetDeadLetterResponse, ListDeadLettersRequest, ListDeadLettersResponse, RedriveDeadLettersRequest,
    RedriveDeadLettersResponse,
};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::dead_letters::act::{Deed, Order, RATE_DEFAULT, RATE_MAX};
use crate::dead_letters::filter::Filter;
use crate::dead_letters::scan::{Keep, SEEN_MAX};
use crate::dead_letters::{DeadLetters, Problem, Queue};

/// Letters of a list when the request names no number, and at most.
const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1_000;
/// Copies of one message in an answer, and bytes of their bodies.
const COPIES_MAX: usize = 100;
const BODIES_MAX: usize = 16 * 1024 * 1024;
/// Most messages named by a filter.
const IDS_MAX: usize = 1_000;
/// Longest name of an operator, and longest reason, bytes.
const BY_MAX: usize = 64;
const REASON_MAX: usize = 500;
/// Answers that wait for a slow caller; the act waits when there are more.
const WAITING_ANSWERS: usize = 64;

/// The gRPC service.
pub(super) struct Api(Arc<DeadLetters>);

/// What is told of an act, each in an answer of its own.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    pub fn new(dead_letters: DeadLetters) -> Self {
        Self(Arc::new(dead_letters))
    }

    fn queue(&self, subscription: &str, quarantine: bool) -> Result<Queue, Status> {
        match (subscription, quarantine) {
            ("", false) => Err(Status::invalid_argument("name a subscription, or ask for quarantine")),
            ("", true) => Ok(self.0.quarantine()),
            (_, true) => Err(Status::invalid_argument("quarantine belongs to no subscription: name one of the two")),
            (subscription, false) => self.0.queue_of(subscription).map_err(|problem| status(&problem)),
        }
    }

    /// The queue that a filter names, and the rest of it.
    fn filter(&self, filter: Option<DeadLetterFilter>) -> Result<(Queue, Filter), Status> {
        let filter = filter.unwrap_or_default();
        let queue = self.queue(&filter.subscription, filter.quarantine)?;
        if filter.message_ids.len() > IDS_MAX {
            let words = format!("{} message ids are named; at most {IDS_MAX} are accepted", filter.message_ids.len());
            return Err(Status::invalid_argument(words));
        }
        if queue.work.is_some() {
            filter.message_ids.iter().try_for_each(|id| words::checked_id(id))?;
        }
        Ok((queue, words::filter(filter)?))
    }

    /// Starts an act and streams what it tells, each as `answer` has it.
    async fn act<T: 'static>(
        &self,
        asked: Result<(Queue, Order), Status>,
        answer: fn(DeadLetterEvent) -> T,
    ) -> Result<Response<Answers<T>>, Status> {
        let (queue, order) = asked.inspect_err(|_| refused())?;
        self.open()?;
        let act = self.0.prepare(queue, order).await.map_err(|problem| {
            refused();
            status(&problem)
        })?;
        let (events, told) = mpsc::channel(WAITING_ANSWERS);
        let dead_letters = self.0.clone();
        let under_way = async move { dead_letters.carry_out(act, events).await };
        drop(self.0.tasks.spawn("an operator's act on dead letters", under_way));
        let events = futures::stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
        Ok(Response::new(Box::pin(events.map(move |event| Ok(answer(words::event(event)))))))
    }

    fn open(&self) -> Result<(), Status> {
        if self.0.stop.is_soft() { Err(Status::unavailable("this downstream is stopping: ask another")) } else { Ok(()) }
    }

    fn redrive(&self, asked: RedriveDeadLettersRequest) -> Result<(Queue, Order), Status> {
        let (queue, filter) = self.filter(asked.filter)?;
        if queue.work.is_none() {
            return Err(Status::invalid_argument("what is in quarantine belongs to no subscription: it cannot be redriven"));
        }
        if asked.rate > RATE_MAX {
            return Err(Status::invalid_argument(format!("rate {}: 1 to {RATE_MAX} letters a second", asked.rate)));
        }
        let rate = if asked.rate == 0 { RATE_DEFAULT } else { asked.rate };
        let order = Order {
            deed: Deed::Redrive { rate },
            filter,
            limit: limit(asked.limit),
            validate_only: asked.validate_only,
            by: asked.by,
            reason: asked.reason,
        };
        checked(order, asked.all).map(|order| (queue, order))
    }

    fn discard(&self, asked: DiscardDeadLettersRequest) -> Result<(Queue, Order), Status> {
        let (queue, filter) = self.filter(asked.filter)?;
        if asked.reason.trim().is_empty() {
            return Err(Status::invalid_argument("say why: a discard needs a reason"));
        }
        let order = Order {
            deed: Deed::Discard,
            filter,
            limit: limit(asked.limit),
            validate_only: asked.validate_only,
            by: asked.by,
            reason: asked.reason,
        };
        checked(order, asked.all).map(|order| (queue, order))
    }
}

#[tonic::async_trait]
impl DeadLetterService for Api {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        self.open()?;
        let ListDeadLettersRequest { filter, limit } = request.into_inner();
        let (queue, filter) = self.filter(filter)?;
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) };
        let keep = Keep { letters: usize::try_from(limit).unwrap_or(usize::MAX), bodies: false };
        let listed = self.0.list(&queue, &filter, keep).await.map_err(|problem| status(&problem))?;
        let scan = Some(words::scan(&listed));
        let letters = listed.letters.into_iter().map(|(letter, _)| words::letter(letter)).collect();
        Ok(Response::new(ListDeadLettersResponse { letters, scan }))
    }

    async fn get_dead_letter(&self, request: Request<GetDeadLetterRequest>) -> Result<Response<GetDeadLetterResponse>, Status> {
        self.open()?;
        let GetDeadLetterRequest { subscription, quarantine, message_id, with_body, by } = request.into_inner();
        if message_id.is_empty() {
            return Err(Status::invalid_argument("name a message_id"));
        }
        let named = DeadLetterFilter { subscription, quarantine, message_ids: vec![message_id], ..DeadLetterFilter::default() };
        let (queue, filter) = self.filter(Some(named))?;
        let keep = Keep { letters: COPIES_MAX, bodies: with_body };
        let listed = self.0.list(&queue, &filter, keep).await.map_err(|problem| status(&problem))?;
        if listed.letters.is_empty() {
            return Err(words::not_found(&filter, &queue, &listed));
        }
        if with_body {
            tracing::info!(message_ids = ?filter.message_ids, queue = %queue.name, by, "an operator looks at the body of a dead letter");
        }
        let scan = Some(words::scan(&listed));
        let mut room = BODIES_MAX;
        let with_room = |(letter, body): (_, bytes::Bytes)| {
            let fits = body.len() <= room;
            room = room.saturating_sub(if fits { body.len() } else { 0 });
            proto::DeadLetter { body: if fits { body } else { bytes::Bytes::new() }, ..words::letter(letter) }
        };
        let letters = listed.letters.into_iter().map(with_room).collect();
        Ok(Response::new(GetDeadLetterResponse { letters, scan }))
    }

    type RedriveDeadLettersStream = Answers<RedriveDeadLettersResponse>;

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<Self::RedriveDeadLettersStream>, Status> {
        let asked = self.redrive(request.into_inner());
        self.act(asked, |event| RedriveDeadLettersResponse { event: Some(event) }).await
    }

    type DiscardDeadLettersStream = Answers<DiscardDeadLettersResponse>;

    async fn discard_dead_letters(
        &self,
        request: Request<DiscardDeadLettersRequest>,
    ) -> Result<Response<Self::DiscardDeadLettersStream>, Status> {
        let asked = self.discard(request.into_inner());
        self.act(asked, |event| DiscardDeadLettersResponse { event: Some(event) }).await
    }
}

/// What both acts have in common.
fn checked(order: Order, all: bool) -> Result<Order, Status> {
    if order.filter.is_open() && !all {
        return Err(Status::invalid_argument(
            "this selects every letter of the queue: name messages or a filter, or ask for all",
        ));
    }
    if order.by.len() > BY_MAX {
        return Err(Status::invalid_argument(format!("by has {} bytes; at most {BY_MAX} are accepted", order.by.len())));
    }
    if order.reason.len() > REASON_MAX {
        return Err(Status::invalid_argument(format!("the reason has {} bytes; at most {REASON_MAX}", order.reason.len())));
    }
    Ok(order)
}

fn limit(asked: u32) -> usize {
    let most = if asked == 0 { SEEN_MAX } else { asked.min(SEEN_MAX) };
    usize::try_from(most).unwrap_or(usize::MAX)
}

fn refused() {
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => "dead_letters", "result" => "refused").increment(1);
}

fn status(problem: &Problem) -> Status {
    let words = with_sources(problem);
    match problem {
        Problem::Unknown { .. } => Status::not_found(words),
        Problem::Busy(_) => Status::aborted(words),
        Problem::Away(_) | Problem::Lost if problem.is_transient() => Status::unavailable(words),
        Problem::Away(_) | Problem::Lost => {
            Status::failed_precondition(format!("{words}: is it declared? countersign topology apply"))
        }
    }
}
