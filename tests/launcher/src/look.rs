//! What the business service and our services say when they are asked from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

use crate::Which;

/// Bound of one question.
const ANSWER: Duration = Duration::from_secs(10);

/// Effects and calls as the business service's own database has them.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Effects {
    /// Effects in all.
    pub total: u64,
    /// Keys with at least one effect.
    pub distinct: u64,
    /// Calls in all, failed ones included.
    pub calls: u64,
    /// Effects of each key; the key is the message's id.
    pub effects: BTreeMap<String, u64>,
}

/// The same without a list of all keys: cheap enough to be asked several times a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// Effects in all.
    pub effects: u64,
    /// Different bodies that had an effect: what the business calls an order, whatever id it travelled under.
    pub orders: u64,
    /// Calls in all, failed ones included.
    pub calls: u64,
    /// Calls that were answered as repeats of what had been done before.
    pub duplicates: u64,
    /// Calls that have no answer yet.
    pub in_flight: u64,
}

/// Asks the services of one [`crate::System`] over HTTP. Cheap to clone; which of them live, and who kills them, is no matter to it.
#[derive(Clone, Debug)]
pub struct Look {
    http: reqwest::Client,
    handler: String,
    services: BTreeMap<Which, String>,
}

impl Look {
    pub(crate) fn new(handler: String, services: BTreeMap<Which, String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(ANSWER).no_proxy().build()?;
        Ok(Self { http, handler, services })
    }

    pub(crate) fn handler_url(&self) -> &str {
        &self.handler
    }

    pub(crate) fn service_url(&self, which: Which) -> &str {
        &self.services[&which]
    }

    /// What the business service's own database says, key by key.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn effects(&self) -> anyhow::Result<Effects> {
        Ok(self.http.get(format!("{}/effects", self.handler)).send().await?.json().await?)
    }

    /// What the business service's own database says in five figures.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn counts(&self) -> anyhow::Result<Counts> {
        let answer = self.http.get(format!("{}/counts", self.handler)).send().await;
        answer.context("the order handler does not answer")?.json().await.context("the order handler's answer")
    }

    /// Makes the business service fail or dawdle; see `order-handler`.
    ///
    /// # Errors
    /// When it does not take the wish.
    pub async fn behave(&self, wish: &serde_json::Value) -> anyhow::Result<()> {
        self.http.post(format!("{}/behave", self.handler)).json(wish).send().await?.error_for_status()?;
        Ok(())
    }

    /// The sum of one metric of a service over the samples that have `label`, such as `outcome="returned"`; empty: over all. 0 when there
    /// is none. It starts again at 0 with the process.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn metric(&self, which: Which, name: &str, label: &str) -> anyhow::Result<f64> {
        let text = self.http.get(format!("{}/metrics", self.service_url(which))).send().await?.text().await?;
        Ok(sum(&text, name, label))
    }

    /// Whether a service says that it is ready; one that does not answer is not.
    pub async fn is_ready(&self, which: Which) -> bool {
        let answer = self.http.get(format!("{}/health/ready", self.service_url(which))).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

fn sum(text: &str, name: &str, label: &str) -> f64 {
    let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label));
    let values = text.lines().filter(named).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    // The sum of nothing would be -0.
    values.fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn a_metric_is_summed_over_the_samples_with_a_label() {
        let text = "# HELP a_total b\na_total{kind=\"x\",outcome=\"lost\"} 2\na_total{kind=\"y\",outcome=\"lost\"} 3\n\
                    a_total{kind=\"x\",outcome=\"kept\"} 10\na_total_more 100\na_gauge 7\n";
        let rows = [("a_total", "", 15.0), ("a_total", "outcome=\"lost\"", 5.0), ("a_gauge", "", 7.0), ("b_total", "", 0.0)];
        for (name, label, wanted) in rows {
            assert!((sum(text, name, label) - wanted).abs() < f64::EPSILON, "{name} {label}");
        }
    }
}
