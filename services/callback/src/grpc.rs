//! What operators ask callback, over gRPC.

mod outlook;
mod page;
pub mod reconcile;
mod redrive;
mod render;

use countersign_boot::Stop;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::Filter;
use countersign_delivery::{MessageId, SubscriptionName};
use countersign_wire::proto::callback_service_server::CallbackService;
use countersign_wire::proto::{
    GetDeliveryRequest, GetDeliveryResponse, GetOutlookRequest, GetOutlookResponse, ListDeliveriesRequest,
    ListDeliveriesResponse, ResendDeliveryRequest, ResendDeliveryResponse,
};
use tonic::{Request, Response, Status};

use crate::desk::Desk;

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
    /// Answers from the desk's MSG DB; an operator's order runs in a task, so that no caller can leave it half done.
    #[must_use]
    pub fn new(desk: Desk, tasks: countersign_boot::Tasks, stop: Stop) -> Self {
        Self { desk, tasks, stop }
    }

    fn open(&self) -> Result<(), Status> {
        if self.stop.is_soft() { Err(Status::unavailable("this callback is stopping: ask another")) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl CallbackService for Service {
    async fn get_delivery(&self, request: Request<GetDeliveryRequest>) -> Result<Response<GetDeliveryResponse>, Status> {
        self.open()?;
        let id = message_id(&request.get_ref().message_id)?;
        let rows = self.desk.deliveries.of_message(id).await.map_err(|error| status(&error))?;
        if rows.is_empty() {
            return Err(unknown(id));
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
        let size = if request.page_size == 0 { PAGE_DEFAULT } else { request.page_size.min(PAGE_MAX) };
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

    async fn resend_delivery(&self, request: Request<ResendDeliveryRequest>) -> Result<Response<ResendDeliveryResponse>, Status> {
        self.open()?;
        let id = message_id(&request.get_ref().message_id)?;
        let subscription = subscription(&request.get_ref().subscription)?;
        let desk = self.desk.clone();
        let act = self.tasks.spawn("an operator's resend", async move { redrive::redrive(&desk, id, subscription).await });
        let results = act.await.map_err(|_| Status::internal("the resend ended in a panic; look at its delivery"))??;
        Ok(Response::new(ResendDeliveryResponse { results }))
    }

    async fn get_outlook(&self, request: Request<GetOutlookRequest>) -> Result<Response<GetOutlookResponse>, Status> {
        self.open()?;
        Ok(Response::new(outlook::outlook(&self.desk, &request.get_ref().subscriptions).await?))
    }
}

fn message_id(text: &str) -> Result<MessageId, Status> {
    MessageId::parse(text).map_err(|error| Status::invalid_argument(format!("message_id: {error}")))
}

/// None for the empty text.
fn subscription(text: &str) -> Result<Option<SubscriptionName>, Status> {
    let named = (!text.is_empty()).then(|| SubscriptionName::new(text));
    named.transpose().map_err(|error| Status::invalid_argument(format!("subscription: {error}")))
}

fn unknown(id: MessageId) -> Status {
    Status::not_found(format!(
        "callback knows nothing of message {id}: nobody has signed for it, and no resend was ordered; whether it was sent at all \
         only its upstream knows (GetMessage)"
    ))
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
