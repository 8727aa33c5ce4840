//! Several downstreams, or several callbacks, on one configuration file, each with its own ports and log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::{Program, Running, Which, binary, free_port, wait_until};

use crate::{Flow, PATIENCE, standings_at};

/// What downstream says when it counts a possible duplicate.
const TWICE: &str = "the effect may have happened twice";
/// What no service may ever say.
const NEVER: [&str; 2] = ["an invariant of the protocol does not hold", "panicked at"];
/// How long a member may take to stop: longer than its grace.
const STOP: Duration = Duration::from_secs(30);
/// So much of a log is told of.
const LAST_LINES: usize = 25;

/// Members that share a work queue, a claim record and a configuration.
#[derive(Debug)]
pub struct Crew {
    members: Vec<Member>,
    http: reqwest::Client,
}

#[derive(Debug)]
struct Member {
    which: Which,
    configuration: PathBuf,
    http: u16,
    grpc: u16,
    ready_url: String,
    grpc_url: String,
    log: PathBuf,
    running: Option<Running>,
}

impl Crew {
    /// So many members with this system's configuration of downstream; none is started.
    ///
    /// # Errors
    /// When the binary is missing or no port is free.
    pub fn of(flow: &Flow, members: usize) -> anyhow::Result<Self> {
        Self::of_service(flow, Which::Downstream, members)
    }

    /// The same of any service.
    ///
    /// # Errors
    /// When no port is free.
    pub fn of_service(flow: &Flow, which: Which, members: usize) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let members = (0..members).map(|member| Member::of(flow, which, member)).collect::<anyhow::Result<_>>()?;
        Ok(Self { members, http })
    }

    /// Starts a member, or starts it again, without waiting for it.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn spawn(&mut self, member: usize) -> anyhow::Result<()> {
        self.spawn_with(member, "")
    }

    /// The same with failpoints, as the variable FAILPOINTS takes them. One that lives is killed first: it has the ports.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn spawn_with(&mut self, member: usize, failpoints: &str) -> anyhow::Result<()> {
        self.kill(member);
        self.members[member].running = Some(self.members[member].program(failpoints)?.spawn()?);
        Ok(())
    }

    /// Waits until a member has killed itself at the failpoint it was started with.
    ///
    /// # Errors
    /// When it lives on, or ended without hitting it.
    pub async fn dies_at(&mut self, member: usize, failpoint: &str) -> anyhow::Result<()> {
        let running = self.members[member].running.take().context("it was not started")?;
        running.wait(PATIENCE).await?;
        ensure!(running.log_text().contains(&format!("failpoint hit: {failpoint}")), "{}", self.last_words());
        Ok(())
    }

    /// Starts all, and waits until they are ready.
    ///
    /// # Errors
    /// When one is not after [`PATIENCE`].
    pub async fn start(&mut self) -> anyhow::Result<()> {
        for member in 0..self.members.len() {
            self.spawn(member)?;
        }
        self.ready().await
    }

    /// Waits until all are ready, each having been started.
    ///
    /// # Errors
    /// When one is not after [`PATIENCE`].
    pub async fn ready(&self) -> anyhow::Result<()> {
        for member in &self.members {
            let ready = async || self.http.get(&member.ready_url).send().await.is_ok_and(|answer| answer.status().is_success());
            let what = format!("a {} to be ready, see {}", member.which.name(), member.log.display());
            wait_until(&what, PATIENCE, ready).await?;
        }
        Ok(())
    }

    /// Whether no member holds a message: what is only prefetched is in no queue, and goes back when its member stops.
    pub async fn is_idle(&self) -> bool {
        for member in &self.members {
            let Ok(standings) = standings_at(&member.grpc_url).await else { return false };
            if standings.iter().any(|standing| standing.in_flight + standing.waiting > 0) {
                return false;
            }
        }
        true
    }

    /// Whether a member lives.
    #[must_use]
    pub fn is_alive(&self, member: usize) -> bool {
        self.members[member].running.as_ref().is_some_and(Running::is_alive)
    }

    /// Whether this life of a member came to the failpoint.
    #[must_use]
    pub fn has_hit(&self, member: usize, failpoint: &str) -> bool {
        let said = format!("failpoint hit: {failpoint}\n");
        self.members[member].running.as_ref().is_some_and(|running| running.log_text().contains(&said))
    }

    /// SIGTERM to one, without waiting for its end.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn terminate(&self, member: usize) -> anyhow::Result<()> {
        self.members[member].running.as_ref().context("it was not started")?.terminate()
    }

    /// The gRPC address of each member.
    #[must_use]
    pub fn grpc_urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.grpc_url.clone()).collect()
    }

    /// SIGKILL.
    pub fn kill(&mut self, member: usize) {
        self.members[member].running = None;
    }

    /// SIGTERM to all, and waits for their ends.
    ///
    /// # Errors
    /// When one has ended before, does not end in time, or not with success.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        for member in &self.members {
            member.running.as_ref().context("it was not started")?.terminate()?;
        }
        for member in &mut self.members {
            let Some(running) = member.running.take() else { continue };
            let status = running.wait(STOP).await?;
            ensure!(status.success(), "{} ends with {status}", member.log.display());
        }
        Ok(())
    }

    /// The end of every member's log, and whether it lives: for the words of a failure.
    #[must_use]
    pub fn last_words(&self) -> String {
        let of = |member: &Member| {
            let text = std::fs::read_to_string(&member.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let alive = member.running.as_ref().is_some_and(Running::is_alive);
            format!("{} (alive: {alive}):\n{}", member.log.display(), lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"))
        };
        self.members.iter().map(of).collect::<Vec<_>>().join("\n")
    }

    /// How often each message was counted as a possible duplicate, over all lives of all members.
    ///
    /// # Errors
    /// When a log cannot be read, or tells of a panic or a violated invariant.
    pub fn possible_duplicates(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut counted = BTreeMap::new();
        for text in self.sound_logs()? {
            for id in counted_twice(&text) {
                *counted.entry(id).or_default() += 1;
            }
        }
        Ok(counted)
    }

    /// What each member has logged, over all its lives.
    ///
    /// # Errors
    /// When a log cannot be read, or tells of a panic or a violated invariant.
    pub fn sound_logs(&self) -> anyhow::Result<Vec<String>> {
        let read = |member: &Member| {
            let text = std::fs::read_to_string(&member.log).with_context(|| format!("reading {}", member.log.display()))?;
            let never = text.lines().find(|line| NEVER.iter().any(|words| line.contains(words)));
            ensure!(never.is_none(), "{}: {}", member.log.display(), never.unwrap_or_default());
            Ok(text)
        };
        self.members.iter().map(read).collect()
    }
}

impl Member {
    fn of(flow: &Flow, which: Which, member: usize) -> anyhow::Result<Self> {
        let (http, grpc) = (free_port()?, free_port()?);
        Ok(Self {
            which,
            configuration: flow.ground.path(&format!("{}.toml", which.name())),
            http,
            grpc,
            ready_url: format!("http://127.0.0.1:{http}/health/ready"),
            grpc_url: format!("http://127.0.0.1:{grpc}"),
            log: flow.ground.path(&format!("{}-{member}.log", which.name())),
            running: None,
        })
    }

    fn program(&self, failpoints: &str) -> anyhow::Result<Program> {
        let directory = self.configuration.parent().context("its configuration is nowhere")?;
        Ok(Program::new(binary(self.which.binary())?)
            .arg("--config")
            .arg(&self.configuration)
            .env("COUNTERSIGN_HTTP__LISTEN", format!("127.0.0.1:{}", self.http))
            .env("COUNTERSIGN_GRPC__LISTEN", format!("127.0.0.1:{}", self.grpc))
            .env("FAILPOINTS", failpoints)
            .env("RUST_BACKTRACE", "1")
            .current_dir(directory)
            .log_to(&self.log))
    }
}

/// The ids of the messages that a log counts as possible duplicates, one per count.
#[must_use]
pub fn counted_twice(log: &str) -> Vec<String> {
    let id = |line: &str| {
        let (_, rest) = line.split_once("message_id")?;
        let rest = rest.trim_start_matches(|letter: char| !letter.is_ascii_hexdigit());
        rest.get(..36).map(str::to_owned)
    };
    log.lines().filter(|line| line.contains(TWICE)).filter_map(id).collect()
}
