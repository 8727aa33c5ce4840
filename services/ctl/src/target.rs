//! Where the services are and how to print: what every verb is given.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use countersign_boot::Client;

/// Where the help lists these, apart from what belongs to one verb.
const EVERYWHERE: &str = "Everywhere";

/// Where the services are.
#[derive(Args)]
pub struct Target {
    /// gRPC address of upstream.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_UPSTREAM_URL", default_value = "http://127.0.0.1:7101")]
    pub upstream: String,
    /// gRPC address of downstream.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_DOWNSTREAM_URL", default_value = "http://127.0.0.1:7102")]
    pub downstream: String,
    /// gRPC address of callback.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_CALLBACK_URL", default_value = "http://127.0.0.1:7103")]
    pub callback: String,
    /// A file that holds the bearer token.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Authorities whose services are trusted, for https:// addresses (PEM); default: the system's.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The certificate to show (PEM).
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_CERTIFICATE_FILE", value_name = "FILE")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "COUNTERSIGN_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// How long to wait for one answer, milliseconds.
    #[arg(long, global = true, help_heading = EVERYWHERE, default_value_t = 10_000)]
    pub timeout_ms: u64,
    /// How to print.
    #[arg(short, long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

impl Target {
    /// How it shows itself.
    pub fn client(&self) -> Client {
        Client {
            token_file: self.token_file.clone().unwrap_or_default(),
            ca_file: self.ca_file.clone().unwrap_or_default(),
            certificate_file: self.certificate_file.clone().unwrap_or_default(),
            key_file: self.key_file.clone().unwrap_or_default(),
        }
    }
}

/// The two forms of every answer.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document.
    Json,
}
