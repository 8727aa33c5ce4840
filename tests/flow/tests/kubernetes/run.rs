//! The local overlay without a cluster: its pods on this machine, beside private servers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::PATIENCE;
use countersign_launcher::{Permissions, Postgres, Program, RabbitMq, Redis, Running, binary, free_port, wait_until};
use serde_json::Value;

use super::Rendered;
use super::pods::{Pod, open_directory};

/// How long a Job may take; the broker and the databases are there.
const JOB: Duration = Duration::from_mins(1);
/// The three services.
const SERVICES: [&str; 3] = ["upstream", "downstream", "callback"];
/// All that a pod may be asked.
const PROBES: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

/// The servers of the overlay, private ones in their place: with its users and passwords.
struct Servers {
    rabbitmq: RabbitMq,
    redis: Redis,
    postgres: Postgres,
    redis_password: String,
}

impl Servers {
    async fn start(rendered: &Rendered, dir: &Path) -> anyhow::Result<Self> {
        let (rabbitmq, redis, postgres) = tokio::try_join!(RabbitMq::start(dir), Redis::start(dir), Postgres::start(dir))?;
        let servers = rendered.all("Secret").find(|secret| secret.name().starts_with("servers-")).context("no servers")?;
        let secret = |key: &str| rendered.data("Secret", servers.name(), key)?.context("no such key");
        let everything = Permissions { configure: ".*", write: ".*", read: ".*", tags: "" };
        let (user, password) = (secret("rabbitmq-user")?, secret("rabbitmq-password")?);
        rabbitmq.broker().create_user(&user, &password, "/", everything).await?;
        let servers = Self { rabbitmq, redis, postgres, redis_password: secret("redis-password")? };
        servers.guard_redis().await?;
        servers.initialise_postgres(rendered, dir).await?;
        Ok(servers)
    }

    async fn guard_redis(&self) -> anyhow::Result<()> {
        self.redis.command(&format!("CONFIG SET requirepass {}", self.redis_password)).await.map(|_| ())
    }

    /// As the image does with an empty volume.
    async fn initialise_postgres(&self, rendered: &Rendered, dir: &Path) -> anyhow::Result<()> {
        let text = |prefix: &str, key: &str| {
            let map = rendered.all("ConfigMap").find(|map| map.name().starts_with(prefix)).context("no such map")?;
            rendered.data("ConfigMap", map.name(), key)?.context("no such file")
        };
        let (script, roles) = (dir.join("init.sql"), dir.join("roles.sql"));
        let mounted = "/opt/countersign/roles.sql";
        std::fs::write(&script, text("postgres-init-", "init.sql")?.replace(mounted, &roles.display().to_string()))?;
        std::fs::write(&roles, text("postgres-roles-", "roles.sql")?)?;
        let psql = Program::new("psql").args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", &self.postgres.url()]);
        let psql = psql.arg("--file").arg(script).log_to(dir.join("psql.log")).spawn()?;
        let status = psql.wait(JOB).await?;
        ensure!(status.success(), "init.sql: {}", psql.log_text());
        Ok(())
    }

    /// Where they are, as the overlay says and as it is here.
    fn places(&self) -> anyhow::Result<Vec<(String, String)>> {
        let places = [
            ("rabbitmq:5672", self.rabbitmq.amqp_url("/")),
            ("redis:6379", self.redis.url()),
            ("postgres:5432", self.postgres.url()),
        ];
        let here = |url: &str| -> anyhow::Result<String> {
            let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).context("no authority")?;
            Ok(authority.rsplit('@').next().unwrap_or(authority).to_owned())
        };
        places.iter().map(|(there, url)| Ok(((*there).to_owned(), here(url)?))).collect()
    }
}

/// The status that a probe gets; none when nobody answers.
async fn ask(pod: &Pod, probe: &str) -> Option<u16> {
    Some(reqwest::get(pod.probe(probe).ok()?).await.ok()?.status().as_u16())
}

async fn answers(pod: &Pod, probe: &str, wanted: u16) -> anyhow::Result<()> {
    let what = format!("the {probe} of {} to be answered {wanted}", pod.name);
    wait_until(&what, PATIENCE, async || ask(pod, probe).await == Some(wanted)).await
}

/// What comes of a dependency that is away: unready, and no reason to restart.
async fn is_unready_but_alive(pod: &Pod) -> anyhow::Result<()> {
    answers(pod, "readinessProbe", 503).await?;
    for probe in ["startupProbe", "livenessProbe"] {
        ensure!(ask(pod, probe).await == Some(200), "the {probe} of {} looks at dependencies", pod.name);
    }
    Ok(())
}

/// SIGTERM, and an end in good order before the kubelet would kill.
async fn stops_in_time(pod: &Pod, process: &Running) -> anyhow::Result<()> {
    process.terminate()?;
    let status = process.wait(pod.grace()?).await.with_context(|| format!("{} is killed by the kubelet", pod.name))?;
    ensure!(status.success(), "{} ended with {status}: {}", pod.name, process.log_text());
    Ok(())
}

/// The local overlay, placed; nothing of it runs.
struct Cluster {
    rendered: Rendered,
    directory: tempfile::TempDir,
    pods: Vec<Pod>,
}

impl Cluster {
    /// `places`: where servers are. The pods find each other by the names of Services.
    fn place(rendered: Rendered, directory: tempfile::TempDir, mut places: Vec<(String, String)>) -> anyhow::Result<Self> {
        let orders = free_port()?;
        places.push(("orders:9000".to_owned(), format!("127.0.0.1:{orders}")));
        let mut pods = Vec::new();
        for (kind, name) in [("Deployment", "upstream"), ("Deployment", "downstream"), ("Deployment", "callback")]
            .into_iter()
            .chain([("Job", "migrate-upstream"), ("Job", "migrate-callback"), ("Job", "topology"), ("Deployment", "orders")])
        {
            let mut elsewhere = places.clone();
            if name == "orders" {
                elsewhere = vec![("0.0.0.0".to_owned(), "127.0.0.1".to_owned()), ("9000".to_owned(), orders.to_string())];
            }
            let pod = Pod::place(&rendered, rendered.find(kind, name)?, directory.path(), &elsewhere, |_| None)?;
            if name == "upstream" {
                places.push(("{upstream}:50051".to_owned(), format!("127.0.0.1:{}", pod.port("grpc")?)));
            }
            pods.push(pod);
        }
        Ok(Self { rendered, directory, pods })
    }

    fn pod(&self, name: &str) -> anyhow::Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
    }

    fn start(&self, name: &str) -> anyhow::Result<Running> {
        self.pod(name)?.program(self.directory.path(), &[])?.spawn()
    }

    async fn run_jobs(&self) -> anyhow::Result<()> {
        for job in self.rendered.all("Job") {
            let process = self.start(job.name())?;
            let status = process.wait(JOB).await?;
            ensure!(status.success(), "Job {} ended with {status}: {}", job.name(), process.log_text());
        }
        Ok(())
    }

    /// Runs the command as somebody whom the shipped tokens let in.
    async fn countersign(&self, who: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let token = self.directory.path().join(who);
        std::fs::write(&token, format!("dev-{who}"))?;
        let url = |name: &str| anyhow::Ok(format!("http://127.0.0.1:{}", self.pod(name)?.port("grpc")?));
        let mut command = tokio::process::Command::new(binary("countersign")?);
        command.args(["-o", "json", "--upstream", &url("upstream")?, "--callback", &url("callback")?, "--token-file"]);
        let output = command.arg(token).args(arguments).kill_on_drop(true).output().await?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    async fn metrics(&self, name: &str, token: &str) -> anyhow::Result<(u16, String)> {
        let url = format!("http://127.0.0.1:{}/metrics", self.pod(name)?.port("http")?);
        let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// An order goes the whole way.
    async fn deliver_an_order(&self) -> anyhow::Result<()> {
        let body = r#"{"order_id":"A-1"}"#;
        let send = ["send", "--exchange", "orders", "--type", "order.created", "--key", "A-1", "--body", body];
        let id = self.countersign("shop", &send).await?["id"].as_str().context("no id")?.to_owned();
        wait_until("the order to be signed for", PATIENCE, async || {
            let found = self.countersign("operator", &["get", &id]).await;
            found.is_ok_and(|found| found["deliveries"][0]["state"] == "done")
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pods_of_the_local_overlay_run_with_what_is_rendered_for_them() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let rendered = Rendered::of("local").await?;
    let directory = open_directory()?;
    let mut servers = Servers::start(&rendered, directory.path()).await?;
    let cluster = Cluster::place(rendered, directory, servers.places()?)?;
    let _orders = cluster.start("orders")?;

    // Tables and topology are not there yet: they wait for the Jobs, and nothing restarts them meanwhile.
    let mut running = Vec::new();
    for name in SERVICES {
        running.push((cluster.pod(name)?, cluster.start(name)?));
        answers(cluster.pod(name)?, "startupProbe", 200).await?;
    }
    for name in SERVICES {
        is_unready_but_alive(cluster.pod(name)?).await?;
    }
    cluster.run_jobs().await?;
    for (pod, process) in &running {
        for probe in PROBES {
            answers(pod, probe, 200).await.with_context(|| process.log_text())?;
        }
        let (status, text) = cluster.metrics(&pod.name, "dev-prometheus").await?;
        ensure!(status == 200 && text.contains("countersign_build_info"), "{}: {status} {text}", pod.name);
        ensure!(cluster.metrics(&pod.name, "dev-shop").await?.0 == 403, "{}: metrics for everybody", pod.name);
    }
    cluster.deliver_an_order().await?;

    // Each dependency in turn. Only downstream needs Redis.
    servers.redis.kill9();
    is_unready_but_alive(cluster.pod("downstream")?).await?;
    for name in ["upstream", "callback"] {
        ensure!(ask(cluster.pod(name)?, "readinessProbe").await == Some(200), "{name} looks at Redis");
    }
    servers.redis.start_again().await?;
    servers.guard_redis().await?;
    answers(cluster.pod("downstream")?, "readinessProbe", 200).await?;
    let downstream = running.remove(1);
    stops_in_time(downstream.0, &downstream.1).await?;

    servers.rabbitmq.kill9();
    for (pod, process) in &running {
        is_unready_but_alive(pod).await?;
        stops_in_time(pod, process).await?;
    }
    Ok(())
}
