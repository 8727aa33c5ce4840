//! Whom to ask: the upstreams that the configuration names, those that MSG DB has seen, and who answers at the one address for all.

use std::collections::BTreeSet;

use countersign_delivery::UpstreamName;
use countersign_delivery::ports::PortError;
use countersign_delivery::reconcile::{MINUTE_MS, Window, minute_of};

use super::Reconciler;

/// One upstream, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name; none when nobody has said one.
    pub name: Option<UpstreamName>,
    /// From configuration; or why it has none.
    pub address: Result<String, String>,
}

impl Target {
    /// What its certificate calls it.
    pub fn called(&self) -> String {
        match (&self.name, &self.address) {
            (Some(name), _) => name.to_string(),
            (None, Ok(address)) => address.clone(),
            (None, Err(_)) => "?".to_owned(),
        }
    }
}

/// Every upstream that is known, or those that are wanted; by name.
pub(super) async fn of(reconciler: &Reconciler, wanted: &[UpstreamName]) -> Result<Vec<Target>, PortError> {
    let mut names: BTreeSet<UpstreamName> = wanted.iter().cloned().collect();
    let mut nameless = None;
    if names.is_empty() {
        (names, nameless) = known(reconciler).await?;
    }
    let nameless = nameless.map(|address| Target { name: None, address: Ok(address) });
    Ok(names.into_iter().map(|name| named(reconciler, name)).chain(nameless).collect())
}

/// An upstream by its name.
pub(super) fn named(reconciler: &Reconciler, name: UpstreamName) -> Target {
    let missing = || format!("upstream {name} has no address: give it one under callback.upstreams");
    let address = reconciler.addresses.of(&name).ok_or_else(missing);
    Target { name: Some(name), address }
}

/// All names; and the address for all at which nobody answers, if no name leads there.
pub(super) async fn known(reconciler: &Reconciler) -> Result<(BTreeSet<UpstreamName>, Option<String>), PortError> {
    let mut names: BTreeSet<UpstreamName> =
        reconciler.books.known_upstreams().await?.into_iter().map(|known| known.upstream).collect();
    let configured: Vec<UpstreamName> = reconciler.addresses.names().collect();
    if configured.iter().any(|name| !names.contains(name)) {
        reconciler.books.note_upstreams(&configured).await?;
        names.extend(configured.iter().cloned());
    }
    let Some(address) = reconciler.addresses.of_all() else { return Ok((names, None)) };
    if names.iter().any(|name| reconciler.addresses.of(name).as_deref() == Some(address)) {
        return Ok((names, None));
    }
    match who_is_there(reconciler, address).await? {
        Ok(name) => {
            reconciler.books.note_upstreams(std::slice::from_ref(&name)).await?;
            names.insert(name);
            Ok((names, None))
        }
        // The template has a default: who names its upstreams need not have one there.
        Err(_) if !configured.is_empty() => Ok((names, None)),
        Err(_) => Ok((names, Some(address.to_owned()))),
    }
}

/// A question about the last whole minute, for the name in its answer.
async fn who_is_there(reconciler: &Reconciler, address: &str) -> Result<Result<UpstreamName, String>, PortError> {
    let until = minute_of(reconciler.now().await?);
    let window = Window { since: until.minus_millis(MINUTE_MS), until };
    let answer = reconciler.digests.sums(address, window).await;
    Ok(answer.map(|sums| sums.upstream).map_err(|error| error.to_string()))
}
