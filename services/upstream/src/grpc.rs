//! The gRPC API: sends, look-ups, and callback's orders.

mod acts;
mod convert;
pub(crate) mod digest;
mod outbox;
pub(crate) mod status;

use countersign_audit::Auditor;
use countersign_boot::OnForbidden;
use countersign_boot::access::signed;
use countersign_wire::proto;
use countersign_wire::proto::upstream_service_server::{UpstreamService, UpstreamServiceServer};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::grpc::convert::{call_trace, get_response, new_message, order, resend_result, send_result};
use crate::grpc::status::{of_port, of_refusal};
use crate::send::Outcome;
use crate::trace::accept_span;
use crate::upstream::Upstream;

/// Largest request that is read at all. Above every limit of ours, so that ours is the error a caller sees.
const MAX_REQUEST_BYTES: usize = 32 * 1024 * 1024;

/// The server for one upstream.
pub(crate) fn server(upstream: Upstream, auditor: Auditor) -> UpstreamServiceServer<Api> {
    UpstreamServiceServer::new(Api { upstream, auditor }).max_decoding_message_size(MAX_REQUEST_BYTES)
}

/// Has forbidden acts of operators written into the audit.
pub(crate) fn on_forbidden(auditor: &Auditor) -> OnForbidden {
    auditor.on_forbidden(acts::of_method)
}

/// The API of one upstream.
#[derive(Clone)]
pub(crate) struct Api {
    upstream: Upstream,
    auditor: Auditor,
}

#[tonic::async_trait]
impl UpstreamService for Api {
    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let span = accept_span(call_trace(request.metadata()).as_ref(), 1);
        let message = request.into_inner().message.ok_or_else(|| Status::invalid_argument("message is missing"))?;
        let outcome = self.upstream.send(new_message(message)).instrument(span).await;
        match outcome {
            Outcome::Refused(refusal) => Err(of_refusal(&refusal)),
            accepted => Ok(Response::new(proto::SendMessageResponse { accepted: convert::accepted(accepted) })),
        }
    }

    async fn send_messages(
        &self,
        request: Request<proto::SendMessagesRequest>,
    ) -> Result<Response<proto::SendMessagesResponse>, Status> {
        let span = accept_span(call_trace(request.metadata()).as_ref(), request.get_ref().messages.len());
        let batch = request.into_inner().messages.into_iter().map(new_message).collect();
        let outcomes = self.upstream.send_batch(batch).instrument(span).await.map_err(|refusal| of_refusal(&refusal))?;
        let pushback = outcomes.iter().find_map(status::pushback);
        let mut response =
            Response::new(proto::SendMessagesResponse { results: outcomes.into_iter().map(send_result).collect() });
        if let Some(retry_ms) = pushback {
            response.metadata_mut().insert(status::PUSHBACK, retry_ms.into());
        }
        Ok(response)
    }

    async fn get_message(
        &self,
        request: Request<proto::GetMessageRequest>,
    ) -> Result<Response<proto::GetMessageResponse>, Status> {
        if request.get_ref().with_body {
            return acts::reveal(&self.upstream, &self.auditor, request).await.map(Response::new);
        }
        let by = convert::by(request.into_inner().by)?;
        let found = self.upstream.find(&by).await.map_err(|error| of_port(&error))?;
        let found = found.ok_or_else(convert::no_such_message)?;
        Ok(Response::new(get_response(found, false)))
    }

    async fn resend_messages(
        &self,
        request: Request<proto::ResendMessagesRequest>,
    ) -> Result<Response<proto::ResendMessagesResponse>, Status> {
        let caller = call_trace(request.metadata());
        let orders = request.into_inner().orders;
        if orders.is_empty() || orders.len() > Upstream::MAX_BATCH_MESSAGES {
            let words = format!("the call has {} orders; 1 to {} are accepted", orders.len(), Upstream::MAX_BATCH_MESSAGES);
            return Err(Status::invalid_argument(words));
        }
        let orders = orders.iter().map(order).collect::<Result<Vec<_>, _>>()?;
        let outcomes = self.upstream.resend(&orders, caller.as_ref()).await;
        Ok(Response::new(proto::ResendMessagesResponse { results: outcomes.into_iter().map(resend_result).collect() }))
    }

    async fn list_outbox(
        &self,
        request: Request<proto::ListOutboxRequest>,
    ) -> Result<Response<proto::ListOutboxResponse>, Status> {
        outbox::list(&self.upstream, request.into_inner()).await.map(Response::new)
    }

    async fn release_messages(
        &self,
        request: Request<proto::ReleaseMessagesRequest>,
    ) -> Result<Response<proto::ReleaseMessagesResponse>, Status> {
        let asked = signed(request, |asked| &mut asked.by);
        acts::release(&self.upstream, &self.auditor, asked).await.map(Response::new)
    }
}
