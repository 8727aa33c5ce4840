//! An operator orders a resend of what is done already, or of nothing.

use anyhow::ensure;
use countersign_flow::{Flow, everywhere};
use countersign_launcher::Which;
use countersign_wire::proto::RedriveDeliveryRequest;
use tonic::Code;

everywhere!(what_is_done_is_not_resent);

async fn what_is_done_is_not_resent(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 1).await?;
    flow.all_signed(&ids).await?;
    let mut callback = flow.callback().await?;
    for (id, expected) in [
        (ids[0].as_str(), Code::FailedPrecondition),
        ("019abcde-0000-7000-8000-000000000001", Code::NotFound),
        ("no-uuid", Code::InvalidArgument),
    ] {
        let request = RedriveDeliveryRequest { message_id: id.to_owned(), by: "a test".into(), ..Default::default() };
        let answer = callback.redrive_delivery(request).await.err().map(|status| (status.code(), status.message().to_owned()));
        ensure!(answer.as_ref().is_some_and(|(code, words)| *code == expected && !words.is_empty()), "{id}: {answer:?}");
    }
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}
