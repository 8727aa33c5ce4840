//! Connections to the services.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use countersign_boot::client::{AddressError, Authorized};
use countersign_wire::proto::callback_service_client::CallbackServiceClient;
use countersign_wire::proto::dead_letter_service_client::DeadLetterServiceClient;
use countersign_wire::proto::reconciliation_service_client::ReconciliationServiceClient;
use countersign_wire::proto::subscription_service_client::SubscriptionServiceClient;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;

use crate::target::Target;

/// Larger than any batch the services accept, so that their own limit is the one that answers.
const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;

pub async fn upstream(target: &Target) -> anyhow::Result<UpstreamServiceClient<Authorized>> {
    let channel = connect(target, "upstream", &target.upstream, "--upstream", target.timeout_ms).await?;
    Ok(UpstreamServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

pub async fn callback(target: &Target) -> anyhow::Result<CallbackServiceClient<Authorized>> {
    let channel = connect(target, "callback", &target.callback, "--callback", target.timeout_ms).await?;
    Ok(CallbackServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// A reconciliation may take minutes: its answer is waited for as long as `timeout_ms`.
pub async fn reconciliation(target: &Target, timeout_ms: u64) -> anyhow::Result<ReconciliationServiceClient<Authorized>> {
    let channel = connect(target, "callback", &target.callback, "--callback", timeout_ms).await?;
    Ok(ReconciliationServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

pub async fn subscriptions(target: &Target) -> anyhow::Result<SubscriptionServiceClient<Authorized>> {
    let channel = connect(target, "downstream", &target.downstream, "--downstream", target.timeout_ms).await?;
    Ok(SubscriptionServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

pub async fn dead_letters(target: &Target) -> anyhow::Result<DeadLetterServiceClient<Authorized>> {
    let channel = connect(target, "callback", &target.callback, "--callback", target.timeout_ms).await?;
    Ok(DeadLetterServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

async fn connect(target: &Target, service: &str, url: &str, option: &str, timeout_ms: u64) -> anyhow::Result<Authorized> {
    let (timeout, client) = (Duration::from_millis(timeout_ms), target.client());
    let unusable = |error: AddressError| match error {
        // Without its source: that is an error of the transport, which would look as if a second try could help.
        AddressError::Tls(source) => anyhow!("--ca-file, --certificate-file and --key-file cannot be used: {source:#}"),
        other => anyhow!("{option}: {other}"),
    };
    if let Some(problem) = client.problems().first() {
        anyhow::bail!("--certificate-file and --key-file: {problem}");
    }
    let endpoint = client.endpoint(url).map_err(unusable)?.connect_timeout(timeout).timeout(timeout);
    let channel = endpoint
        .connect()
        .await
        .with_context(|| format!("{service} does not answer at {url}: start it, or name its address with {option}"))?;
    Ok(client.bearer().on(channel))
}
