//! Others that carry messages from a sender to a handler, each as its documentation says for speed without loss.
//!
//! Programs and pinned versions are in `tests/bench/peers`; [`PEERS`] says how each is set and what it does not do. Sender and consumer are
//! processes of their own, the handler counts and does nothing else; what it counted lies in files ([`seen`]). The clock runs from the word
//! to go, with everybody connected, until the last message was handled; then the broker must say that all were acked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::{Program, Running, node_packages, python, wait_until};

use crate::servers::Servers;
use crate::tally;

mod seen;

use seen::Seen;

/// For a process to connect.
const START: Duration = Duration::from_mins(1);
/// For all messages of one peer to be handled.
const ALL: Duration = Duration::from_mins(5);
/// For the broker to say that nothing is left. It counts a quorum queue every five seconds.
const ACKED: Duration = Duration::from_secs(30);
/// For a process to end.
const STOP: Duration = Duration::from_secs(30);
const READY: &str = "ready";
const GO: &str = "go";

/// One of them.
pub(crate) struct Peer {
    /// As it is named in the figures.
    pub name: &'static str,
    /// As it calls itself.
    pub title: &'static str,
    /// It handles one message where the others handle so many: as slow as it is, a round would take minutes.
    pub share: u32,
    program: &'static str,
    /// How many send, and how many consume.
    processes: u32,
    over: Over,
    /// How it is set. Chosen on a machine that was busy with other work: what was tried and not taken may do better on a quiet one.
    pub set: &'static str,
    /// What it leaves to whoever uses it.
    pub lacks: &'static str,
}

/// Where its messages wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// In this quorum queue.
    RabbitMq(&'static str),
    /// In the lists of this name.
    Redis(&'static str),
}

pub(crate) const PEERS: [Peer; 4] = [
    // Tried: 8 to 32 threads; one sender and one worker; pools `prefork` of two and `threads` of eight.
    Peer {
        name: "celery",
        title: "Celery",
        share: 20,
        program: "celery_peer.py",
        processes: 2,
        over: Over::RabbitMq("bench.celery"),
        set: "quorum queue, `confirm_publish`, two senders of 16 threads, two `solo` workers, `acks_late`, prefetch 250, no results",
        lacks: "handles again what comes again; keeps no record of what was sent; does not look for what is lost",
    },
    // Tried: 30 to 500 publishes under way, prefetch 200, two of each.
    Peer {
        name: "faststream",
        title: "FastStream",
        share: 10,
        program: "faststream_peer.py",
        processes: 1,
        over: Over::RabbitMq("bench.faststream"),
        set: "quorum queue, confirms with 500 publishes under way, prefetch 1,000, uvloop",
        lacks: "as Celery",
    },
    // Tried: 200 to 2,000 publishes under way and as much prefetch, two of each.
    Peer {
        name: "amqplib",
        title: "amqplib",
        share: 2,
        program: "amqplib_peer.mjs",
        processes: 1,
        over: Over::RabbitMq("bench.amqplib"),
        set: "quorum queue, confirm channel with 1,000 publishes under way, prefetch 1,000, each delivery acked",
        lacks: "as Celery",
    },
    // Tried: concurrency 1, 50 and 500, two workers, bulks of 1,000.
    Peer {
        name: "bullmq",
        title: "BullMQ",
        share: 4,
        program: "bullmq_peer.mjs",
        processes: 1,
        over: Over::Redis("bull:bench"),
        set: "Redis with its append-only file written through every second, four bulks of 500 at a time, concurrency 100",
        lacks: "as Celery; and a crash of Redis loses up to a second of what was accepted",
    },
];

/// What the peers are written in, with their packages.
pub(crate) struct Tools {
    python: anyhow::Result<PathBuf>,
    packages: anyhow::Result<PathBuf>,
}

impl Tools {
    /// Brings the packages; what cannot be had is left for [`Peer::left_out`] to say.
    pub(crate) async fn bring() -> Self {
        let (requirements, package_json) = (directory().join("requirements.txt"), directory().join("package.json"));
        let (python, packages) = tokio::join!(python(&requirements), node_packages(&package_json));
        Self { python, packages }
    }
}

impl Peer {
    /// Why it cannot take part here, if so.
    pub(crate) fn left_out(&self, tools: &Tools) -> Option<String> {
        let missing = if self.is_python() { tools.python.as_ref() } else { tools.packages.as_ref() }.err()?;
        Some(format!("{missing:#}"))
    }

    /// How long so many messages took, all handled exactly once and acked.
    pub(crate) async fn run(
        &self,
        tools: &Tools,
        servers: &Servers,
        round: u32,
        messages: u32,
        body_bytes: u32,
    ) -> anyhow::Result<Duration> {
        let corner = format!("{}{round}", self.name);
        let dir = servers.dir.path().join(&corner);
        std::fs::create_dir(&dir)?;
        servers.redis.command("FLUSHALL").await?;
        servers.rabbitmq.create_vhost(&corner).await?;
        let url = match self.over {
            Over::RabbitMq(_) => servers.rabbitmq.amqp_url(&corner),
            Over::Redis(_) => servers.redis.url(),
        };
        let (mut consumers, mut senders) = (Vec::new(), Vec::new());
        for number in 0..self.processes {
            consumers.push(self.start(tools, &dir, number, &["consume", &url, &messages.to_string()]).await?);
        }
        for number in 0..self.processes {
            let first = messages * number / self.processes;
            let count = messages * (number + 1) / self.processes - first;
            let part = [first, count, body_bytes].map(|number| number.to_string());
            senders.push(self.start(tools, &dir, number, &["send", &url, &part[0], &part[1], &part[2]]).await?);
        }
        let begun_us = tally::now_us();
        std::fs::write(dir.join(GO), "")?;
        let done = async || {
            let handled = Seen::read(&dir, messages).map_or(0, |seen| seen.handled());
            handled == messages as usize || !consumers.iter().all(Running::is_alive)
        };
        wait_until(&format!("{} to handle {messages} messages", self.name), ALL, done).await?;
        for sender in senders {
            ensure!(sender.wait(STOP).await?.success(), "a sender of {} failed:\n{}", self.name, sender.log_text());
        }
        self.acked(servers, &corner).await?;
        for consumer in consumers {
            consumer.terminate().with_context(|| format!("a consumer of {}:\n{}", self.name, consumer.log_text()))?;
            consumer.wait(STOP).await?;
        }
        servers.rabbitmq.delete_vhost(&corner).await?;
        let seen = Seen::read(&dir, messages)?;
        seen.each_once().with_context(|| self.name)?;
        Ok(Duration::from_micros(seen.last_us.saturating_sub(begun_us)))
    }

    fn is_python(&self) -> bool {
        Path::new(self.program).extension().is_some_and(|extension| extension == "py")
    }

    /// Starts one of its processes and waits until it is connected.
    async fn start(&self, tools: &Tools, dir: &Path, number: u32, arguments: &[&str]) -> anyhow::Result<Running> {
        let file = directory().join(self.program);
        let program = match (&tools.python, &tools.packages) {
            (Ok(python), _) if self.is_python() => Program::new(python).arg(file).env("PYTHONDONTWRITEBYTECODE", "1"),
            (_, Ok(packages)) => Program::new("node").arg(file).arg(packages),
            _ => anyhow::bail!("{} cannot be started without its packages", self.name),
        };
        let log = dir.join(format!("{}{number}.log", arguments.first().unwrap_or(&self.name)));
        let process = program.args(arguments.iter().copied()).current_dir(dir).log_to(log).spawn()?;
        process.wait_for_log(READY, START).await?;
        Ok(process)
    }

    /// Waits until nothing is left where its messages waited, and nothing at the consumer: a stop before that would have them sent again.
    async fn acked(&self, servers: &Servers, vhost: &str) -> anyhow::Result<()> {
        wait_until(&format!("all messages of {} to be acked", self.name), ACKED, async || match self.over {
            Over::RabbitMq(queue) => {
                let counts = servers.rabbitmq.ctl(&["list_queues", "--silent", "-p", vhost, "name", "messages"]).await;
                counts.is_ok_and(|counts| counts.lines().any(|line| line.split_once('\t') == Some((queue, "0"))))
            }
            Over::Redis(lists) => {
                let mut left = Vec::new();
                for list in ["wait", "active"] {
                    left.extend(servers.redis.command(&format!("LLEN {lists}:{list}")).await.unwrap_or_default());
                }
                left == ["0", "0"]
            }
        })
        .await
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}
