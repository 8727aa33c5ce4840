//! The verbs by which a named operator acts on deliveries. They take several ids, one call each; what became of each is printed, whatever ends it.

mod audit;
mod discard;
mod history;
mod park;
mod redrive;
mod restore;

use clap::Args;
use countersign_boot::client::Authorized;
use countersign_wire::proto::DeliveryActResult;
use countersign_wire::proto::callback_service_client::CallbackServiceClient;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::exit::{Done, may_pass};
use crate::target::Target;
use crate::{client, output};

pub use audit::{AuditArgs, audit};
pub use discard::{DiscardArgs, discard};
pub use history::{HistoryArgs, history};
pub use park::{ParkArgs, park};
pub use redrive::{RedriveArgs, redrive};
pub use restore::{RestoreArgs, restore};

/// What the help of an act ends with.
pub const ACTS: &str = "\
Every act leaves one row of the audit, refused ones too: countersign audit
Exit codes: see countersign --help";

/// Which deliveries.
#[derive(Args)]
struct On {
    /// The messages' ids.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Only the deliveries to this subscription.
    #[arg(long, default_value = "")]
    subscription: String,
}

/// Who acts.
#[derive(Args)]
pub struct Operator {
    /// Who you are; your login name if you do not say.
    #[arg(long, env = "USER")]
    by: Option<String>,
}

impl Operator {
    pub fn name(self) -> String {
        // Nameless, callback says what to do.
        self.by.filter(|by| !by.is_empty()).unwrap_or_else(|| whoami::username().unwrap_or_default())
    }
}

type Callback = CallbackServiceClient<Authorized>;

/// What became of everything that was asked for.
#[derive(Default)]
struct Acted {
    /// By message, in the order given.
    results: Vec<(String, DeliveryActResult)>,
    /// Ids that were not come to.
    not_tried: Vec<String>,
    /// Why not.
    away: Option<Status>,
}

/// Acts on one message after the other, until one call does not come through.
///
/// # Errors
/// When the only message is refused, or the first call does not come through: nothing has happened then.
async fn each(
    target: &Target,
    ids: &[String],
    act: impl AsyncFn(Callback, String) -> Result<Vec<DeliveryActResult>, Status>,
) -> anyhow::Result<Acted> {
    let callback = client::callback(target).await?;
    let mut acted = Acted::default();
    for (at, id) in ids.iter().enumerate() {
        match act(callback.clone(), id.clone()).await {
            Ok(results) => acted.results.extend(results.into_iter().map(|result| (id.clone(), result))),
            Err(status) if ids.len() == 1 => return Err(status.into()),
            Err(status) if may_pass(&status) => {
                if at == 0 {
                    return Err(status.into());
                }
                acted.not_tried = ids[at..].to_vec();
                acted.away = Some(status);
                break;
            }
            Err(status) => acted.results.push((id.clone(), refused(&status))),
        }
    }
    Ok(acted)
}

/// A message that was refused as a whole, as one more result.
fn refused(status: &Status) -> DeliveryActResult {
    let result = match status.code() {
        Code::NotFound => "unknown",
        Code::InvalidArgument => "invalid",
        _ => "refused",
    };
    DeliveryActResult { result: result.to_owned(), detail: status.message().to_owned(), ..DeliveryActResult::default() }
}

/// Prints what became of it; `done` tells which results are what was asked for.
fn print(target: &Target, acted: &Acted, warning: Option<&str>, done: impl Fn(&str) -> bool) -> Done {
    let away = acted.away.as_ref().map(Status::message);
    let mut json = json!({"results": acted.results.iter().map(as_json).collect::<Vec<_>>()});
    if let Some(warning) = warning {
        json["warning"] = warning.into();
    }
    if let Some(away) = away {
        json["away"] = away.into();
        json["not_tried"] = acted.not_tried.clone().into();
    }
    output::print(target.output, &json, || {
        let rows =
            acted.results.iter().map(|(id, one)| [id.clone(), one.subscription.clone(), one.result.clone(), one.detail.clone()]);
        let table = output::table(["message", "subscription", "result", "detail"], rows);
        match away {
            Some(away) => {
                format!("{table}\ncallback went away ({away}); not tried, or not known whether: {}", acted.not_tried.join(" "))
            }
            None => table,
        }
    });
    if acted.away.is_some() {
        Done::Away
    } else if acted.results.iter().all(|(_, one)| done(&one.result)) {
        Done::All
    } else {
        Done::Partly
    }
}

fn as_json((id, one): &(String, DeliveryActResult)) -> Value {
    json!({"message_id": id, "subscription": one.subscription, "result": one.result, "detail": one.detail})
}
