//! What operators ask callback, over gRPC.

mod audit;
mod dead;
mod outlook;
mod page;
pub mod reconcile;
mod render;

use countersign_boot::Stop;
use countersign_boot::access::signed;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::audit::Act;
use countersign_delivery::ports::deliveries::Filter;
use countersign_delivery::{MessageId, SubscriptionName};
use countersign_wire::proto::callback_service_server::CallbackService;
use countersign_wire::proto::{
    DeliveryActResult, DiscardDeliveryRequest, DiscardDeliveryResponse, GetDeliveryRequest, GetDeliveryResponse,
    GetOutlookRequest, GetOutlookResponse, ListAuditRequest, ListAuditResponse, ListDeliveriesRequest, ListDeliveriesResponse,
    ParkDeliveryRequest, ParkDeliveryResponse, RedriveDeliveryRequest, RedriveDeliveryResponse, RestoreDeliveryRequest,
    RestoreDeliveryResponse,
};
use tonic::{Request, Response, Status};

use crate::desk::Desk;
use crate::operate::{Ask, Refusal, operate, unknown};

pub use dead::DeadLetterApi;

/// Rows of a page when the request names no size.
const PAGE_DEFAULT: u32 = 100;
/// Rows of a page at most; a larger size is brought down to it.
const PAGE_MAX: u32 = 1_000;

/// The gRPC service.
pub struct Service {
    desk: Desk,
    tasks: countersign_boot::Tasks,
    stop: Stop,
}

impl Service {
    /// Answers from the desk's MSG DB; an operator's act runs in a task, so that no caller can leave it half done.
    #[must_use]
    pub fn new(desk: Desk, tasks: countersign_boot::Tasks, stop: Stop) -> Self {
        Self { desk, tasks, stop }
    }

    fn open(&self) -> Result<(), Status> {
        if self.stop.is_soft() { Err(Status::unavailable("this callback is stopping: ask another")) } else { Ok(()) }
    }

    async fn operate(&self, ask: Ask) -> Result<Vec<DeliveryActResult>, Status> {
        self.open()?;
        let desk = self.desk.clone();
        let act = self.tasks.spawn("an operator's act", async move { operate(&desk, &ask).await });
        let ended = act.await.map_err(|_| Status::internal("the act ended in a panic; look at its delivery"))?;
        Ok(ended.map_err(|refusal| refused(&refusal))?.into_iter().map(render::act_result).collect())
    }
}

#[tonic::async_trait]
impl CallbackService for Service {
    async fn get_delivery(&self, request: Request<GetDeliveryRequest>) -> Result<Response<GetDeliveryResponse>, Status> {
        self.open()?;
        let id = message_id(&request.get_ref().message_id)?;
        let rows = self.desk.deliveries.of_message(id).await.map_err(|error| status(&error))?;
        if rows.is_empty() {
            return Err(Status::not_found(unknown(id)));
        }
        let mut deliveries = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            let history = self.desk.deliveries.history(&key).await.map_err(|error| status(&error))?;
            deliveries.push(render::delivery(&key, &row, &history));
        }
        Ok(Response::new(GetDeliveryResponse { deliveries }))
    }

    async fn list_deliveries(&self, request: Request<ListDeliveriesRequest>) -> Result<Response<ListDeliveriesResponse>, Status> {
        self.open()?;
        let request = request.into_inner();
        let states = page::states(request.states)?;
        let subscription = subscription(&request.subscription)?;
        let after = page::read(&request.page_token, &states, subscription.as_ref())?;
        let filter = Filter { states, subscription, after };
        let size = page_size(request.page_size);
        // One row more than asked for tells whether there is another page.
        let mut rows = self.desk.deliveries.list(&filter, size + 1).await.map_err(|error| status(&error))?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let last = rows.last().filter(|_| more).map(|(key, _)| key);
        let next_page_token = last.map(|key| page::token(key, &filter.states, filter.subscription.as_ref())).unwrap_or_default();
        let deliveries = rows.iter().map(|(key, row)| render::delivery(key, row, &[])).collect();
        Ok(Response::new(ListDeliveriesResponse { deliveries, next_page_token }))
    }

    async fn redrive_delivery(
        &self,
        request: Request<RedriveDeliveryRequest>,
    ) -> Result<Response<RedriveDeliveryResponse>, Status> {
        let RedriveDeliveryRequest { message_id, subscription, allow_duplicate, by, reason } =
            signed(request, |asked| &mut asked.by);
        let ask = Ask { act: Act::Redrive, message_id, subscription, by, reason, allow_duplicate };
        Ok(Response::new(RedriveDeliveryResponse { results: self.operate(ask).await? }))
    }

    async fn park_delivery(&self, request: Request<ParkDeliveryRequest>) -> Result<Response<ParkDeliveryResponse>, Status> {
        let ParkDeliveryRequest { message_id, subscription, by, reason } = signed(request, |asked| &mut asked.by);
        let ask = Ask { act: Act::Park, message_id, subscription, by, reason, allow_duplicate: false };
        Ok(Response::new(ParkDeliveryResponse { results: self.operate(ask).await? }))
    }

    async fn discard_delivery(
        &self,
        request: Request<DiscardDeliveryRequest>,
    ) -> Result<Response<DiscardDeliveryResponse>, Status> {
        let DiscardDeliveryRequest { message_id, subscription, by, reason } = signed(request, |asked| &mut asked.by);
        let ask = Ask { act: Act::Discard, message_id, subscription, by, reason, allow_duplicate: false };
        Ok(Response::new(DiscardDeliveryResponse { results: self.operate(ask).await? }))
    }

    async fn restore_delivery(
        &self,
        request: Request<RestoreDeliveryRequest>,
    ) -> Result<Response<RestoreDeliveryResponse>, Status> {
        let RestoreDeliveryRequest { message_id, subscription, by, reason } = signed(request, |asked| &mut asked.by);
        let ask = Ask { act: Act::Restore, message_id, subscription, by, reason, allow_duplicate: false };
        Ok(Response::new(RestoreDeliveryResponse { results: self.operate(ask).await? }))
    }

    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        self.open()?;
        Ok(Response::new(audit::list(&self.desk, &request.into_inner()).await?))
    }

    async fn get_outlook(&self, request: Request<GetOutlookRequest>) -> Result<Response<GetOutlookResponse>, Status> {
        self.open()?;
        Ok(Response::new(outlook::outlook(&self.desk, &request.get_ref().subscriptions).await?))
    }
}

/// Rows of a page by what the request says.
fn page_size(asked: u32) -> u32 {
    if asked == 0 { PAGE_DEFAULT } else { asked.min(PAGE_MAX) }
}

fn message_id(text: &str) -> Result<MessageId, Status> {
    MessageId::parse(text).map_err(|error| Status::invalid_argument(format!("message_id: {error}")))
}

/// None for the empty text.
fn subscription(text: &str) -> Result<Option<SubscriptionName>, Status> {
    let named = (!text.is_empty()).then(|| SubscriptionName::new(text));
    named.transpose().map_err(|error| Status::invalid_argument(format!("subscription: {error}")))
}

/// What it means to a caller that nothing was done.
fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Input(words) => Status::invalid_argument(words),
        Refusal::Unknown(words) => Status::not_found(words),
        Refusal::DoesNotApply(words) => Status::failed_precondition(words),
        Refusal::Database(error) => status(error),
    }
}

/// What MSG DB's trouble means to a caller; the details go to the log.
fn status(error: &PortError) -> Status {
    tracing::warn!(%error, source = ?std::error::Error::source(error), "an operator's question could not be answered");
    if error.is_transient() {
        Status::unavailable(format!("{error}: try again"))
    } else {
        Status::internal(format!("{error}: see the log of callback"))
    }
}
