//! Who stands between callback and an upstream: counts the calls, and hands them on or not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_launcher::free_port;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::upstream_service_server::{UpstreamService, UpstreamServiceServer};
use countersign_wire::proto::{
    GetMessageRequest, GetMessageResponse, ListOutboxRequest, ListOutboxResponse, ReleaseMessagesRequest,
    ReleaseMessagesResponse, ResendMessagesRequest, ResendMessagesResponse, ResendResult, ResendState, SendMessageRequest,
    SendMessageResponse, SendMessagesRequest, SendMessagesResponse,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

/// Every status that says that a call failed.
pub(super) const FAILURES: [Code; 16] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// How it treats the calls of callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Hands them on.
    Forwards,
    /// Takes them and never answers.
    Hangs,
    /// Answers with [`FAILURES`], one after the other.
    Fails,
    /// Says that everything was sent again, and has nothing sent.
    Lies,
}

/// One call as it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) at: Instant,
    pub(super) orders: usize,
}

/// One of them. Dropping it ends it.
#[derive(Debug)]
pub(super) struct StandIn {
    url: String,
    manner: watch::Sender<Manner>,
    calls: Arc<Mutex<Vec<Call>>>,
    serving: JoinHandle<()>,
}

impl StandIn {
    /// Before the upstream at this address, which need not be there.
    pub(super) fn before(real: &str, manner: Manner) -> anyhow::Result<Self> {
        let port = free_port()?;
        let (manner, of) = watch::channel(manner);
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let channel = Endpoint::from_shared(real.to_owned())?.connect_lazy();
        let line = Line { manner: of, calls: calls.clone(), real: UpstreamServiceClient::new(channel) };
        let address = ([127, 0, 0, 1], port).into();
        let serving = tokio::spawn(async move {
            let served = Server::builder().add_service(UpstreamServiceServer::new(line)).serve(address).await;
            served.expect("the stand-in serves");
        });
        Ok(Self { url: format!("http://127.0.0.1:{port}"), manner, calls, serving })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// From now on treats calls like this.
    pub(super) fn will(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// Every call so far.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls and orders so far.
    pub(super) fn count(&self) -> (usize, usize) {
        let calls = self.calls();
        (calls.len(), calls.iter().map(|call| call.orders).sum())
    }

    /// By how much any stretch of time had more orders than `burst` and a rate allow.
    pub(super) fn excess(&self, burst: f64, rate_per_s: f64) -> f64 {
        let calls = self.calls();
        let mut worst = f64::MIN;
        for (from, first) in calls.iter().enumerate() {
            let mut orders = 0.0;
            for call in &calls[from..] {
                orders += f64::from(u32::try_from(call.orders).unwrap_or(u32::MAX));
                let time: Duration = call.at - first.at;
                worst = worst.max(orders - burst - rate_per_s * time.as_secs_f64());
            }
        }
        worst
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Line {
    manner: watch::Receiver<Manner>,
    calls: Arc<Mutex<Vec<Call>>>,
    real: UpstreamServiceClient<Channel>,
}

impl Line {
    /// Notes a call; how many came before it.
    fn note(&self, orders: usize) -> usize {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(Call { at: Instant::now(), orders });
        calls.len() - 1
    }
}

#[tonic::async_trait]
impl UpstreamService for Line {
    async fn resend_messages(&self, request: Request<ResendMessagesRequest>) -> Result<Response<ResendMessagesResponse>, Status> {
        let orders = request.into_inner().orders;
        let number = self.note(orders.len());
        let manner = *self.manner.borrow();
        match manner {
            Manner::Forwards => self.real.clone().resend_messages(ResendMessagesRequest { orders }).await,
            Manner::Hangs => std::future::pending().await,
            Manner::Fails => Err(Status::new(FAILURES[number % FAILURES.len()], "as the test has it")),
            Manner::Lies => {
                let sent = ResendResult { state: ResendState::Resent.into(), detail: String::new() };
                Ok(Response::new(ResendMessagesResponse { results: vec![sent; orders.len()] }))
            }
        }
    }

    async fn send_message(&self, _: Request<SendMessageRequest>) -> Result<Response<SendMessageResponse>, Status> {
        Err(only_resends())
    }

    async fn send_messages(&self, _: Request<SendMessagesRequest>) -> Result<Response<SendMessagesResponse>, Status> {
        Err(only_resends())
    }

    async fn get_message(&self, _: Request<GetMessageRequest>) -> Result<Response<GetMessageResponse>, Status> {
        Err(only_resends())
    }

    async fn list_outbox(&self, _: Request<ListOutboxRequest>) -> Result<Response<ListOutboxResponse>, Status> {
        Err(only_resends())
    }

    async fn release_messages(&self, _: Request<ReleaseMessagesRequest>) -> Result<Response<ReleaseMessagesResponse>, Status> {
        Err(only_resends())
    }
}

fn only_resends() -> Status {
    Status::unimplemented("callback asks an upstream to send again, and nothing else")
}
