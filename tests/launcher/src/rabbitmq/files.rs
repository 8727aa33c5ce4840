//! What is on disk: where `RabbitMQ` is installed, and the private files of one node.

use std::fs::{create_dir_all, write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::program::Program;
use crate::shared::{find_program, folders};

/// At-least-once dead-lettering between quorum queues, on which the check tiers stand, appeared here.
const LEAST_VERSION: (u32, u32) = (3, 10);
/// Schedulers of the node; the machine is shared with everything under test.
const SCHEDULERS: &str = "2:2";

/// The folder in which a node keeps all it stores.
pub(super) const DATA: &str = "data";

/// The folder that holds the broker's scripts. The packaged wrapper in the `PATH` switches to another user and knows one
/// node per machine, so it is not what we want.
pub(super) fn scripts() -> anyhow::Result<PathBuf> {
    let mut candidates: Vec<PathBuf> = folders("/usr/lib/rabbitmq/lib", "rabbitmq_server-");
    candidates.extend(["/opt/homebrew/opt/rabbitmq", "/usr/local/opt/rabbitmq"].map(PathBuf::from));
    if let Ok(found) = find_program("rabbitmq-server", [], "rabbitmq")
        && let Ok(real) = found.canonicalize()
        && let Some(home) = real.parent().and_then(Path::parent)
    {
        candidates.push(home.to_path_buf());
    }
    let real = |home: &PathBuf| home.join("sbin/rabbitmq-server").is_file() && home.join("plugins").is_dir();
    let Some(home) = candidates.into_iter().find(real) else {
        bail!("RabbitMQ was not found; install it with: deploy/local/install rabbitmq");
    };
    refuse_old(&home)?;
    Ok(home.join("sbin"))
}

/// The version stands in the name of the broker's own plugin. An unreadable one passes: the broker will tell.
fn refuse_old(home: &Path) -> anyhow::Result<()> {
    for plugin in folders(&home.join("plugins").to_string_lossy(), "rabbit-") {
        let name = plugin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut numbers = name.trim_start_matches("rabbit-").split('.').map(str::parse::<u32>);
        if let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) {
            if (major, minor) < LEAST_VERSION {
                bail!("{name} in {} is too old: 3.10 or newer is needed", home.display());
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Erlang's port mapper, which we start ourselves so that it is our child and ends with us.
pub(super) fn port_mapper() -> anyhow::Result<PathBuf> {
    let homes = ["/usr/lib/erlang", "/opt/homebrew/lib/erlang", "/usr/local/lib/erlang"];
    let places = homes.iter().flat_map(|home| folders(home, "erts-")).map(|erts| erts.join("bin/epmd"));
    find_program("epmd", places, "rabbitmq")
}

/// The ports of one node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) admin: u16,
    pub(super) mapper: u16,
    pub(super) distribution: u16,
    /// For Prometheus, if it shall be scraped.
    pub(super) metrics: Option<u16>,
}

/// Who a node is, and to whom it belongs.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Before `@localhost`.
    pub(super) name: &'static str,
    /// Nodes that share it may talk to each other. It keeps nodes apart that meet by accident; whoever can read it is already its owner.
    pub(super) cookie: String,
    /// All nodes of its cluster, itself included; none: it is alone.
    pub(super) cluster: &'static [&'static str],
}

impl Identity {
    /// The whole name of a node.
    pub(super) fn of(name: &str) -> String {
        format!("{name}@localhost")
    }

    /// How the node finds its cluster: whoever of it runs already is joined. Leaders of queues are spread over the nodes.
    fn formation(&self) -> String {
        if self.cluster.is_empty() {
            return String::new();
        }
        let spread = "queue_leader_locator = balanced\n\
                      cluster_formation.peer_discovery_backend = classic_config\n\
                      cluster_formation.randomized_startup_delay_range.min = 0\n\
                      cluster_formation.randomized_startup_delay_range.max = 1\n";
        let node = |(number, name): (usize, &&str)| {
            format!("cluster_formation.classic_config.nodes.{} = {}\n", number + 1, Self::of(name))
        };
        spread.to_owned() + &self.cluster.iter().enumerate().map(node).collect::<String>()
    }
}

/// Writes configuration, plugin list and cookie below `dir`.
pub(super) fn write_files(dir: &Path, ports: Ports, identity: &Identity) -> anyhow::Result<()> {
    for folder in ["home", DATA, "log", "plugins"] {
        create_dir_all(dir.join(folder)).with_context(|| format!("creating files in {}", dir.display()))?;
    }
    let Ports { amqp, admin, metrics, .. } = ports;
    // Statistics cost a quarter of an idle node's work, and without Prometheus nobody looks at them here.
    let statistics = metrics.map_or_else(
        || "collect_statistics = none\n".to_owned(),
        |port| format!("collect_statistics_interval = 1000\nprometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {port}\n"),
    );
    let conf = format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {admin}\n\
         management_agent.disable_metrics_collector = true\n\
         {statistics}\
         disk_free_limit.absolute = 50MB\n\
         vm_memory_high_watermark.absolute = 1GB\n\
         raft.wal_max_size_bytes = 33554432\n\
         log.console = true\n\
         log.console.level = info\n\
         log.file = false\n"
    );
    write(dir.join("rabbitmq.conf"), conf + &identity.formation())?;
    let plugins = if metrics.is_some() { "rabbitmq_management,rabbitmq_prometheus" } else { "rabbitmq_management" };
    write(dir.join("enabled_plugins"), format!("[{plugins}].\n"))?;
    let cookie = dir.join("home/.erlang.cookie");
    if !cookie.exists() {
        write(&cookie, &identity.cookie)?;
        std::fs::set_permissions(&cookie, std::fs::Permissions::from_mode(0o400))?;
    }
    Ok(())
}

/// Adds the environment under which the scripts touch nothing outside `dir` and listen on loopback only.
pub(super) fn with_environment(mut program: Program, dir: &Path, ports: Ports, identity: &Identity) -> Program {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RABBITMQ_") || text.starts_with("ERL_") {
            program = program.env_remove(name);
        }
    }
    let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
    let files = [
        ("HOME", "home"),
        ("RABBITMQ_CONF_ENV_FILE", "rabbitmq-env.conf"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_CONFIG_FILES", "conf.d"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
        ("RABBITMQ_MNESIA_BASE", DATA),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_PLUGINS_EXPAND_DIR", "plugins"),
        ("RABBITMQ_FEATURE_FLAGS_FILE", "feature_flags"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "config"),
        ("RABBITMQ_PID_FILE", "pid"),
    ];
    for (name, file) in files {
        program = program.env(name, dir.join(file));
    }
    program
        .env("RABBITMQ_NODENAME", Identity::of(identity.name))
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("ERL_EPMD_PORT", ports.mapper.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        // The script then replaces itself by the node, so that our child *is* the node and SIGKILL hits it.
        .env("RUNNING_UNDER_SYSTEMD", "true")
        .env_remove("NOTIFY_SOCKET")
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            format!("{loopback} +Bd +S {SCHEDULERS} +stbt u +sbwt none +sbwtdcpu none +sbwtdio none"),
        )
        .env("RABBITMQ_CTL_ERL_ARGS", format!("{loopback} +S 1:1"))
        .env("RABBITMQ_CTL_DIST_PORT_MIN", "0")
        .env("RABBITMQ_CTL_DIST_PORT_MAX", "0")
}
