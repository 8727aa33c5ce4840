//! The three services with the users that `deploy/` ships for them, each with what it needs: everything works. And what they do not need is
//! refused by the servers themselves.
//!
//! The users of the broker get what `countersign topology permissions` prints for this test's topology (that the shipped files are what it
//! prints for the shipped one is tested where it prints); Redis loads the shipped ACL file; PostgreSQL runs the shipped `roles.sql`.

mod refused;
mod users;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use serde_json::{Value, json};

use super::command::{expect, outcome_of};
use super::dead_letters::dead;
use super::events::Listener;
use users::{AUDIT, Users};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_do_all_they_do_with_the_shipped_users_and_those_may_nothing_else() -> anyhow::Result<()> {
    let mut users = Users::shipped("least").await?;
    users.declare().await?;
    users.migrate().await?;
    users.flow.start(&Which::ALL).await?;
    let listener = Listener::bound(&users.flow).await?;
    doctor_finds_nothing(&users).await?;

    let flow = &mut users.flow;
    let mut done = flow.send(0, 3).await?;
    flow.all_signed(&done).await?;
    done.extend(one_is_lost_and_resent(flow).await?);
    done.extend(one_is_retried(flow).await?);
    done.extend(one_is_rejected_and_redriven(flow, &listener).await?);
    expect(flow, 0, &["pause", SUBSCRIPTION, "--reason", "a test"]).await?;
    expect(flow, 0, &["resume", SUBSCRIPTION]).await?;
    expect(flow, 0, &["get", &done[0], "--body"]).await?;
    acts_are_audited(flow).await?;
    done.extend(flow.send(10, 1).await?);
    flow.all_signed(&done).await?;
    flow.each_effected_once(&done).await?;
    let certificate = expect(flow, 0, &["reconcile", "--since", "1h"]).await?;
    ensure!(certificate["certificates"][0]["state"] == "certified", "{certificate}");

    refused::by_the_broker(&users).await?;
    refused::by_redis(&users).await?;
    refused::by_postgres(&users).await?;
    users.flow.finish().await
}

/// Each service has the rights it needs, the broker is compared by one user who can do nothing but look, and Redis answers.
async fn doctor_finds_nothing(users: &Users) -> anyhow::Result<()> {
    let management = users.management_as("doctor");
    let dir = users.flow.ground.dir().display().to_string();
    let arguments = ["doctor", "--config", &dir, "--management-url", &management];
    let findings = outcome_of(&users.flow, &arguments).await?;
    let findings = findings["findings"].as_array().context("no findings")?;
    let of = |check: &str| -> Vec<&Value> {
        findings.iter().filter(|finding| finding["check"].as_str().is_some_and(|found| found.starts_with(check))).collect()
    };
    let (permissions, topology, redis) = (of("permissions.broker"), of("topology."), of("connections.redis"));
    ensure!(permissions.len() == 3 && !topology.is_empty() && redis.len() == 1, "{findings:?}");
    for finding in [permissions, topology, redis].concat() {
        // Over AMQP a service only sees what is there; its arguments come from the management interface.
        let passed_over = finding["severity"] == "skipped" && finding["subject"] != "arguments";
        ensure!(finding["severity"] != "error" && !passed_over, "{finding}");
    }
    Ok(())
}

async fn one_is_lost_and_resent(flow: &mut Flow) -> anyhow::Result<Vec<String>> {
    flow.system.stop(Which::Downstream).await?;
    let lost = flow.send(3, 1).await?;
    flow.queue_reaches(SUBSCRIPTION, 1).await?;
    ensure!(flow.ground.purge(SUBSCRIPTION).await? >= 1, "nothing was lost");
    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&lost).await?;
    ensure!(flow.history(&lost[0], "resending").await? >= 1, "it was not sent again");
    let probes = flow.system.metric(Which::Callback, "countersign_probes_total").await?;
    ensure!(probes >= 2.0, "{probes} probes");
    Ok(lost)
}

async fn one_is_retried(flow: &Flow) -> anyhow::Result<Vec<String>> {
    flow.system.behave(&json!({"status": 503})).await?;
    let retried = flow.send(4, 1).await?;
    let failed = async || flow.system.effects().await.is_ok_and(|effects| effects.calls > 4);
    wait_until("the handler to fail", PATIENCE, failed).await?;
    flow.system.behave(&json!({})).await?;
    flow.all_signed(&retried).await?;
    Ok(retried)
}

/// Upstream and downstream may tell callback what operators did.
async fn acts_are_audited(flow: &Flow) -> anyhow::Result<()> {
    let ended = async || -> anyhow::Result<bool> {
        let audit = expect(flow, 0, &["audit"]).await?;
        let acts = audit["acts"].as_array().context("no acts")?;
        let is = |act: &str| acts.iter().any(|row| row["act"] == act && row["result"] == "done");
        Ok(["pause", "resume", "reveal_message"].into_iter().all(is))
    };
    wait_until("acts at upstream and downstream to be in the audit", PATIENCE, async || ended().await.unwrap_or(false)).await
}

/// Its dead letter is taken in, an event tells of it, and an operator sends it again.
async fn one_is_rejected_and_redriven(flow: &Flow, listener: &Listener) -> anyhow::Result<Vec<String>> {
    flow.system.behave(&json!({"status": 422})).await?;
    let rejected = flow.send(5, 1).await?;
    flow.all_in_state(&rejected, "parked").await?;
    flow.dead_letters_reach(SUBSCRIPTION, 1).await?;
    listener.hears("parked", &rejected[0], 1).await?;
    flow.system.behave(&json!({})).await?;
    dead(flow, 0, "redrive", &["--all", "--because", "mended"]).await?;
    flow.all_signed(&rejected).await?;
    ensure!(flow.dead_letters(AUDIT).await?.is_empty(), "nobody has put anything there");
    Ok(rejected)
}
