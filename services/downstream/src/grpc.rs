//! What operators ask of a downstream, over gRPC.

mod dead;

use countersign_boot::GrpcServices;
use countersign_wire::proto;
use countersign_wire::proto::dead_letter_service_server::DeadLetterServiceServer;

use crate::dead_letters::DeadLetters;

/// The services of one downstream.
pub(crate) fn services(dead_letters: DeadLetters) -> GrpcServices {
    GrpcServices::new(proto::DESCRIPTORS).add(DeadLetterServiceServer::new(dead::Api::new(dead_letters)))
}
