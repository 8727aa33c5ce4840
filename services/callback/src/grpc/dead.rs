//! `DeadLetterService`: checks what is asked, has it done, and puts it into words.

mod order;
mod words;

use std::pin::Pin;

use bytes::Bytes;
use countersign_boot::access::{only, signed};
use countersign_boot::{Role, Stop, Tasks};
use countersign_delivery::ports::audit::{Act, NewAct};
use countersign_delivery::ports::dead_letters::Place;
use countersign_wire::proto;
use countersign_wire::proto::dead_letter_service_server::DeadLetterService;
use countersign_wire::proto::{
    DeadLetterEvent, DeadLetterFilter, DiscardDeadLettersRequest, DiscardDeadLettersResponse, GetDeadLetterRequest,
    GetDeadLetterResponse, ListDeadLettersRequest, ListDeadLettersResponse, RedriveDeadLettersRequest,
    RedriveDeadLettersResponse,
};
use futures::{Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use self::order::{Asked, in_words};
use super::{PAGE_DEFAULT, PAGE_MAX, status};
use crate::dead_letters::act::{Deed, LETTERS_MAX, Order, RATE_DEFAULT, RATE_MAX};
use crate::dead_letters::{Filter, Opened, search};
use crate::desk::Desk;
use crate::operate::{BY_MAX, REASON_MAX, forbidden};

/// Letters of one message in an answer, and bytes of their bodies.
const COPIES_MAX: usize = 100;
const BODIES_MAX: u64 = 16 * 1024 * 1024;
/// Most messages named by a filter.
const IDS_MAX: usize = 1_000;
/// Answers that wait for a slow caller; the act waits when there are more.
const WAITING_ANSWERS: usize = 64;

/// The gRPC service. An act runs in a task, so that no caller can leave it half done.
pub struct DeadLetterApi {
    desk: Desk,
    tasks: Tasks,
    stop: Stop,
}

/// What is told of an act, each in an answer of its own.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl DeadLetterApi {
    /// Answers from the desk's MSG DB.
    #[must_use]
    pub const fn new(desk: Desk, tasks: Tasks, stop: Stop) -> Self {
        Self { desk, tasks, stop }
    }

    fn place(&self, subscription: &str, quarantine: bool) -> Result<Place, Status> {
        if subscription.is_empty() {
            return Ok(if quarantine { Place::Quarantine } else { Place::Anywhere });
        }
        if quarantine {
            return Err(Status::invalid_argument("quarantine belongs to no subscription: name one of the two"));
        }
        let all = &self.desk.topology.subscriptions;
        if let Some(known) = all.iter().find(|known| known.name.as_str() == subscription) {
            return Ok(Place::Of(known.name.clone()));
        }
        let known = all.iter().map(|known| known.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(Status::not_found(format!("subscription {subscription:?} is not in the topology, which has {known}")))
    }

    fn filter(&self, filter: Option<DeadLetterFilter>) -> Result<Filter, Status> {
        let filter = filter.unwrap_or_default();
        let place = self.place(&filter.subscription, filter.quarantine)?;
        if filter.message_ids.len() > IDS_MAX {
            let words = format!("{} message ids are named; at most {IDS_MAX} are accepted", filter.message_ids.len());
            return Err(Status::invalid_argument(words));
        }
        if let Place::Of(_) = place {
            filter.message_ids.iter().try_for_each(|id| super::message_id(id).map(|_| ()))?;
        }
        words::filter(filter, place)
    }

    /// Starts an act, once its row is begun, and streams what it tells, each as `answer` has it.
    async fn act<T: 'static>(&self, asked: Asked, answer: fn(DeadLetterEvent) -> T) -> Result<Response<Answers<T>>, Status> {
        self.open()?;
        let (events, told) = mpsc::channel(WAITING_ANSWERS);
        let (begun, is_begun) = oneshot::channel();
        let under_way = order::order(self.desk.clone(), asked, self.stop.clone(), events, begun);
        drop(self.tasks.spawn("an operator's act on dead letters", under_way));
        is_begun.await.map_err(|_| Status::internal("the order ended in a panic before any letter was touched"))??;
        let events = futures::stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
        Ok(Response::new(Box::pin(events.map(move |event| Ok(answer(words::event(event)))))))
    }

    fn open(&self) -> Result<(), Status> {
        if self.stop.is_soft() { Err(Status::unavailable("this callback is stopping: ask another")) } else { Ok(()) }
    }

    fn asked_redrive(&self, asked: RedriveDeadLettersRequest) -> Asked {
        let deed = Deed::Redrive { rate: if asked.rate == 0 { RATE_DEFAULT } else { asked.rate } };
        let row = row(deed, asked.filter.as_ref(), asked.limit, &asked.by, &asked.reason);
        Asked { row, validate_only: asked.validate_only, checked: self.redrive(asked, deed) }
    }

    fn redrive(&self, asked: RedriveDeadLettersRequest, deed: Deed) -> Result<Order, Status> {
        let filter = self.filter(asked.filter)?;
        if filter.stored.place == Place::Quarantine {
            return Err(Status::invalid_argument("what is in quarantine belongs to no subscription: it cannot be redriven"));
        }
        if filter.stored.states.contains("discarded") {
            return Err(Status::invalid_argument("states: what is discarded is not redriven"));
        }
        if asked.rate > RATE_MAX {
            return Err(Status::invalid_argument(format!("rate {}: 1 to {RATE_MAX} letters a second", asked.rate)));
        }
        let order = Order {
            deed,
            filter,
            limit: limit(asked.limit),
            validate_only: asked.validate_only,
            by: asked.by,
            reason: asked.reason,
        };
        checked(order, asked.all)
    }

    fn asked_discard(&self, asked: DiscardDeadLettersRequest) -> Asked {
        let row = row(Deed::Discard, asked.filter.as_ref(), asked.limit, &asked.by, &asked.reason);
        Asked { row, validate_only: asked.validate_only, checked: self.discard(asked) }
    }

    fn discard(&self, asked: DiscardDeadLettersRequest) -> Result<Order, Status> {
        let filter = self.filter(asked.filter)?;
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
        checked(order, asked.all)
    }

    /// The letters of one message, without their bodies.
    async fn letters_of(&self, asked: GetDeadLetterRequest) -> Result<Vec<Opened>, Status> {
        let GetDeadLetterRequest { subscription, quarantine, message_id, .. } = asked;
        if message_id.is_empty() {
            return Err(Status::invalid_argument("name a message_id"));
        }
        let named = DeadLetterFilter {
            subscription,
            quarantine,
            message_ids: vec![message_id.clone()],
            states: words::ALL_STATES.map(str::to_owned).to_vec(),
            ..DeadLetterFilter::default()
        };
        let filter = self.filter(Some(named))?;
        let found = search(&self.desk, &filter, 0, COPIES_MAX).await.map_err(|error| status(&error))?.letters;
        if found.is_empty() {
            return Err(Status::not_found(format!(
                "callback has no letter of message {message_id} there: one that has just died may still be on its way"
            )));
        }
        Ok(found)
    }

    /// Letters with as many bodies as an answer has room for.
    async fn with_bodies(&self, letters: Vec<Opened>) -> Result<Vec<proto::DeadLetter>, Status> {
        let mut room = BODIES_MAX;
        let mut fits = |opened: &Opened| {
            let fits = opened.letter.body_bytes <= room;
            room = room.saturating_sub(if fits { opened.letter.body_bytes } else { 0 });
            fits
        };
        let numbers: Vec<u64> = letters.iter().filter(|opened| fits(opened)).map(|opened| opened.letter.number).collect();
        let bodies = self.desk.letters.bodies(&numbers).await.map_err(|error| status(&error))?;
        let mut bodies: std::collections::BTreeMap<u64, Option<Bytes>> = numbers.into_iter().zip(bodies).collect();
        let with_body = |opened: Opened| {
            let body = bodies.remove(&opened.letter.number).flatten().unwrap_or_default();
            proto::DeadLetter { body, ..words::letter(opened) }
        };
        Ok(letters.into_iter().map(with_body).collect())
    }
}

#[tonic::async_trait]
impl DeadLetterService for DeadLetterApi {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        self.open()?;
        let ListDeadLettersRequest { filter, page_size, page_token } = request.into_inner();
        let filter = self.filter(filter)?;
        let after = words::after(&page_token, &filter)?;
        let size = if page_size == 0 { PAGE_DEFAULT } else { page_size.min(PAGE_MAX) };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let page = search(&self.desk, &filter, after, size).await.map_err(|error| status(&error))?;
        let next_page_token = page.next.map(|number| words::token(number, &filter)).unwrap_or_default();
        let letters = page.letters.into_iter().map(words::letter).collect();
        Ok(Response::new(ListDeadLettersResponse { letters, next_page_token }))
    }

    async fn get_dead_letter(&self, request: Request<GetDeadLetterRequest>) -> Result<Response<GetDeadLetterResponse>, Status> {
        self.open()?;
        let may = only(&request, Role::Operator, "with_body");
        let asked = signed(request, |asked| &mut asked.by);
        if !asked.with_body {
            let letters = self.letters_of(asked).await?.into_iter().map(words::letter).collect();
            return Ok(Response::new(GetDeadLetterResponse { letters }));
        }
        let (message_id, subscription, by) = (asked.message_id.clone(), asked.subscription.clone(), asked.by.clone());
        tracing::info!(message_id, subscription, by, "an operator asks for the body of a dead letter");
        let reason = String::new();
        let row = NewAct { by, act: Act::RevealDeadLetters, target: message_id, subscription, reason };
        if let Err(refused) = may {
            forbidden::refuse(&self.desk, &row, Role::Operator).await;
            return Err(refused);
        }
        let reveal = async { self.with_bodies(self.letters_of(asked).await?).await };
        let letters = order::audited(&self.desk, &row, reveal, |letters| format!("{} shown", letters.len())).await?;
        Ok(Response::new(GetDeadLetterResponse { letters }))
    }

    type RedriveDeadLettersStream = Answers<RedriveDeadLettersResponse>;

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<Self::RedriveDeadLettersStream>, Status> {
        let asked = self.asked_redrive(signed(request, |asked| &mut asked.by));
        self.act(asked, |event| RedriveDeadLettersResponse { event: Some(event) }).await
    }

    type DiscardDeadLettersStream = Answers<DiscardDeadLettersResponse>;

    async fn discard_dead_letters(
        &self,
        request: Request<DiscardDeadLettersRequest>,
    ) -> Result<Response<Self::DiscardDeadLettersStream>, Status> {
        let asked = self.asked_discard(signed(request, |asked| &mut asked.by));
        self.act(asked, |event| DiscardDeadLettersResponse { event: Some(event) }).await
    }
}

/// The row of an order, as it was asked.
fn row(deed: Deed, filter: Option<&DeadLetterFilter>, limit: u32, by: &str, reason: &str) -> NewAct {
    let everything = DeadLetterFilter::default();
    let filter = filter.unwrap_or(&everything);
    let (target, subscription) = (in_words(filter, limit), filter.subscription.clone());
    NewAct { by: by.to_owned(), act: deed.act(), target, subscription, reason: reason.to_owned() }
}

/// What both acts have in common.
fn checked(order: Order, all: bool) -> Result<Order, Status> {
    let (by, reason) = (order.by.trim().to_owned(), order.reason.trim().to_owned());
    let order = Order { by, reason, ..order };
    if order.filter.stored.place == Place::Anywhere {
        return Err(Status::invalid_argument("name a subscription, or quarantine: an act deals with one of them at a time"));
    }
    if order.filter.is_open() && !all {
        return Err(Status::invalid_argument("this selects every letter of it: name messages or a filter, or ask for all"));
    }
    if order.by.is_empty() || order.by.len() > BY_MAX {
        let words = format!("by: has {} bytes: say who does it, in 1 to {BY_MAX}", order.by.len());
        return Err(Status::invalid_argument(words));
    }
    if order.reason.len() > REASON_MAX {
        return Err(Status::invalid_argument(format!("reason: has {} bytes: use at most {REASON_MAX}", order.reason.len())));
    }
    Ok(order)
}

fn limit(asked: u32) -> usize {
    let most = if asked == 0 { LETTERS_MAX } else { asked.min(LETTERS_MAX) };
    usize::try_from(most).unwrap_or(usize::MAX)
}
