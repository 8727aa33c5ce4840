//! `countersign doctor`: what is wrong with an installation, each finding with its remedy.
//!
//! In the order of the story: [`settings`] reads what the services are configured to do; [`connections`] asks whether everything is there,
//! and what the others judge by; [`versions`], [`topology`] with [`management`] and [`policies`], [`permissions`], [`retention`] with [`stored`], [`redis`] and
//! [`clocks`] judge one subject each; [`finding`] is how all of them tell.
//!
//! **Invariant:** nothing is changed, published or consumed, and no secret is printed. Every question has a time-out, and one that fails
//! stops no other.

mod ask;
mod clocks;
mod connections;
mod exchanges;
mod finding;
mod management;
mod permissions;
mod policies;
mod redis;
mod retention;
mod settings;
mod stored;
mod topology;
mod versions;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::doctor::ask::Http;
use crate::doctor::connections::{Heard, Reached};
use crate::doctor::finding::{Finding, Severity};
use crate::doctor::settings::{Installed, Part, Which};
use crate::doctor::topology::Wanted;
use crate::exit::Done;
use crate::output;
use crate::target::Target;

#[derive(Args)]
pub struct DoctorArgs {
    /// Folder with upstream.toml, downstream.toml and callback.toml; without it the built-in defaults. `COUNTERSIGN_<SECTION>__<KEY>`
    /// overrides, as for the services.
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// The topology file, instead of the one that the configuration names.
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
    /// HTTP address of upstream, instead of its `[http] listen`.
    #[arg(long, value_name = "URL")]
    upstream_http: Option<String>,
    /// HTTP address of downstream, instead of its `[http] listen`.
    #[arg(long, value_name = "URL")]
    downstream_http: Option<String>,
    /// HTTP address of callback, instead of its `[http] listen`.
    #[arg(long, value_name = "URL")]
    callback_http: Option<String>,
    /// The broker's management interface; by default the broker's host with port 15672 and the same user.
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_MANAGEMENT_URL", hide_env_values = true)]
    management_url: Option<String>,
}

pub async fn run(target: &Target, args: &DoctorArgs) -> anyhow::Result<Done> {
    // Needed for HTTP and amqps; a second installation in one process answers with an error that means nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    anyhow::ensure!(target.timeout_ms > 0, "--timeout-ms is 0: give each question some milliseconds");
    for (option, url) in args.urls() {
        anyhow::ensure!(is_address(url), "{option} is not an address such as http://127.0.0.1:7111");
    }
    let findings = Box::pin(examine(target, args)).await?;
    output::print(target.output, &finding::as_json(&findings), || finding::as_text(&findings));
    Ok(if finding::count(&findings, Severity::Error) == 0 { Done::All } else { Done::Partly })
}

impl DoctorArgs {
    fn urls(&self) -> Vec<(&'static str, &str)> {
        let urls = [
            ("--upstream-http", &self.upstream_http),
            ("--downstream-http", &self.downstream_http),
            ("--callback-http", &self.callback_http),
            ("--management-url", &self.management_url),
        ];
        urls.into_iter().filter_map(|(option, url)| Some((option, url.as_deref()?))).collect()
    }

    /// Where a service's HTTP server is.
    fn http_url(&self, which: Which, part: Option<&Part>) -> String {
        let given = match which {
            Which::Upstream => &self.upstream_http,
            Which::Downstream => &self.downstream_http,
            Which::Callback => &self.callback_http,
        };
        given.as_deref().map_or_else(|| settings::http_url(which, part), |url| url.trim_end_matches('/').to_owned())
    }
}

fn is_address(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Everything, subject by subject.
async fn examine(target: &Target, args: &DoctorArgs) -> anyhow::Result<Vec<Finding>> {
    let limit = Duration::from_millis(target.timeout_ms);
    let (parts, mut findings) = settings::read(args.config.as_deref())?;
    let (wanted, told) = topology::read(args.topology.as_deref(), &parts);
    findings.extend(told);
    let installed: Vec<Installed> =
        parts.into_iter().map(|(which, part)| Installed { which, http_url: args.http_url(which, part.as_ref()), part }).collect();
    let http = Http::new(limit, &target.client())?;
    let part = |which| installed.iter().find(|one| one.which == which).and_then(|one| one.part.as_ref());
    let uses_redis = wanted.as_ref().is_none_or(|wanted| redis::is_used(&wanted.topology));
    let redis_of_downstream = async {
        match part(Which::Downstream) {
            Some(part) if uses_redis => Some(redis::ask(&part.redis, limit).await),
            _ => None,
        }
    };
    let (reached, heard, called, asked) = tokio::join!(
        connections::brokers(&installed, limit),
        connections::services(&installed, &http),
        connections::calls(&installed, target, limit),
        redis_of_downstream,
    );
    findings.extend(connections::judge_brokers(&reached));
    findings.extend(asked.as_ref().map(redis::judge_connection));
    findings.extend((!uses_redis).then(redis::not_used));
    findings.extend(connections::judge_services(&installed, &heard));
    findings.extend(connections::judge_calls(&called?));

    let standing = asked.as_ref().and_then(|asked| asked.standing.as_ref().ok());
    findings.extend(versions::judge_brokers(&reached));
    findings.extend(standing.map(|standing| versions::judge_redis(&standing.version)));
    findings.extend(versions::judge_services(&heard));

    let broker = Box::pin(examine_broker(args, &installed, &reached, wanted.as_ref(), &http, limit));
    let (of_broker, managed) = broker.await;
    findings.extend(of_broker);
    findings.extend(judge_retention(wanted.as_ref(), part(Which::Downstream), part(Which::Callback)));
    let parts = Which::ALL.map(part);
    findings.extend(stored::judge(wanted.as_ref().map(|wanted| &wanted.topology), parts));
    findings.extend(standing.map(redis::judge).unwrap_or_default());
    findings.extend(judge_clocks(&heard, asked.as_ref(), managed.as_ref()));
    Ok(findings)
}

/// Topology and permissions.
async fn examine_broker(
    args: &DoctorArgs,
    installed: &[Installed],
    reached: &[Reached],
    wanted: Option<&Wanted>,
    http: &Http,
    limit: Duration,
) -> (Vec<Finding>, Option<management::Managed>) {
    let Some(wanted) = wanted else {
        let found = "not compared: there is no topology to compare with";
        return (vec![Finding::skipped("topology.queue", "broker", found, "see under configuration")], None);
    };
    let Some(first) = reached.iter().find(|one| one.server.is_ok()) else {
        let found = "not compared: no service's user reaches the broker";
        return (vec![Finding::skipped("topology.queue", "broker", found, "see under connections")], None);
    };
    let asked = reached.iter().filter_map(|one| {
        let part = installed.iter().find(|installed| installed.which == one.which)?.part.as_ref()?;
        Some(permissions::check(one, part, &wanted.topology, limit))
    });
    let (topology, permissions) = tokio::join!(
        topology::check(wanted, &first.config, http, args.management_url.as_deref(), limit),
        futures::future::join_all(asked),
    );
    let (mut findings, managed) = topology;
    findings.extend(permissions.into_iter().flatten());
    (findings, managed)
}

fn judge_retention(wanted: Option<&Wanted>, downstream: Option<&Part>, callback: Option<&Part>) -> Vec<Finding> {
    let (Some(downstream), Some(callback)) = (downstream, callback) else {
        let found = "not judged: a configuration file cannot be used";
        return vec![Finding::skipped("retention.horizon", "downstream", found, "see under configuration")];
    };
    let figures = retention::Figures {
        downstream: &downstream.downstream,
        theirs: &downstream.policy,
        policy: &callback.policy,
        callback_retention_ms: callback.callback.dedup_retention_ms,
    };
    retention::judge(wanted.map(|wanted| &wanted.topology), &figures)
}

fn judge_clocks(heard: &[Heard], asked: Option<&redis::Asked>, managed: Option<&management::Managed>) -> Vec<Finding> {
    let services = heard.iter().filter_map(|one| clocks::judge_date(one.which.as_str(), one.ready.as_ref().ok()?));
    let redis = asked.and_then(|asked| {
        let standing = asked.standing.as_ref().ok()?;
        Some(clocks::judge_exact("redis", asked.between_ms, standing.now_ms))
    });
    let broker = managed.and_then(|managed| clocks::judge_date("broker", &managed.answer));
    services.chain(redis).chain(broker).collect()
}
