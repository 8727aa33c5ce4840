//! What travels, as bytes: generated protobuf code, its conversions to and from the protocol's types, and AMQP headers.
//!
//! [`proto`] is generated. [`publication`] turns a message into what is published, [`arrival`] reads it back, [`receipts`] and [`checks`] do the
//! same for the two batches, [`acts`] for what operators did, [`probes`] for the markers between them and [`canaries`] for the batches that only prove the way. [`dead_letter`] reads what lies in a dead-letter queue, [`history`] is what
//! a message carries of its tries, [`events`] what listeners are told.
//!
//! **Invariant:** unknown fields are ignored, an unknown version is an error, and every error says what was wrong with the bytes.

pub mod acts;
pub mod arrival;
pub mod canaries;
pub mod checks;
pub mod dead_letter;
mod error;
pub mod events;
pub mod history;
pub mod names;
pub mod probes;
pub mod publication;
pub mod receipts;
mod values;

pub use error::WireError;

/// Generated from `proto/countersign/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod proto {
    tonic::include_proto!("countersign.v1");

    /// The file descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("countersign");
}
