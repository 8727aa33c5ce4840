//! What unary gRPC costs without us: takes `SendMessage` as upstream would, and answers at once.
//!
//! Server and messages are configured and made as upstream's; there is no gate, no database and no broker behind them.

#![allow(clippy::disallowed_methods, reason = "a tool without a launch frame; the ban is for the product")]

use std::time::Duration;

use countersign_boot::Grpc;
use countersign_wire::proto;
use countersign_wire::proto::upstream_service_server::{UpstreamService, UpstreamServiceServer};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

/// As long as the answer of upstream.
const ID: &str = "0199d5a0-0000-7000-8000-000000000000";
const FINGERPRINT_BYTES: usize = 32;

struct Echo;

#[async_trait]
impl UpstreamService for Echo {
    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let message = request.into_inner().message.ok_or_else(|| Status::invalid_argument("message is missing"))?;
        let fingerprint = message.body.get(..FINGERPRINT_BYTES).unwrap_or(&message.body).to_vec();
        let accepted = proto::Accepted {
            id: ID.into(),
            state: proto::SendState::Confirmed.into(),
            duplicate: false,
            fingerprint: fingerprint.into(),
        };
        Ok(Response::new(proto::SendMessageResponse { accepted: Some(accepted) }))
    }

    async fn send_messages(
        &self,
        _: Request<proto::SendMessagesRequest>,
    ) -> Result<Response<proto::SendMessagesResponse>, Status> {
        Err(unary_only())
    }

    async fn get_message(&self, _: Request<proto::GetMessageRequest>) -> Result<Response<proto::GetMessageResponse>, Status> {
        Err(unary_only())
    }

    async fn resend_messages(
        &self,
        _: Request<proto::ResendMessagesRequest>,
    ) -> Result<Response<proto::ResendMessagesResponse>, Status> {
        Err(unary_only())
    }

    async fn list_outbox(&self, _: Request<proto::ListOutboxRequest>) -> Result<Response<proto::ListOutboxResponse>, Status> {
        Err(unary_only())
    }

    async fn release_messages(
        &self,
        _: Request<proto::ReleaseMessagesRequest>,
    ) -> Result<Response<proto::ReleaseMessagesResponse>, Status> {
        Err(unary_only())
    }
}

fn unary_only() -> Status {
    Status::unimplemented("the echo answers SendMessage alone")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Grpc::loopback(0);
    let incoming = TcpIncoming::bind(config.listen)?.with_nodelay(Some(true));
    println!("listening on {}", incoming.local_addr()?);
    Server::builder()
        .max_concurrent_streams(config.max_streams)
        .timeout(Duration::from_millis(config.request_timeout_ms))
        .http2_keepalive_interval(Some(Duration::from_millis(config.keepalive_ms)))
        .add_service(UpstreamServiceServer::new(Echo))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
