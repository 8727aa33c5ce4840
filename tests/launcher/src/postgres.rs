//! A private `PostgreSQL`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::Signal;
use sea_orm::{ConnectOptions, ConnectionTrait, Database};
use tempfile::TempDir;

use crate::port::free_port;
use crate::program::{Program, Running};
use crate::shared::{find_program, folders};

const INIT: Duration = Duration::from_mins(1);
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);
const PSQL: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
const CONNECTIONS: u16 = 300;
const READY: &str = "database system is ready to accept connections";
const OWNER: &str = "countersign";
/// Whom the server runs as when we are root, which it refuses to be; the first that exists.
const UNPRIVILEGED: [&str; 3] = ["postgres", "nobody", "daemon"];

/// What a test may choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostgresOptions {
    /// Write commits through to the disk. SIGKILL of the server loses nothing without it; a power cut would.
    pub fsync: bool,
    /// Count statements: the extension `pg_stat_statements` can be created, which is part of the server's own package.
    pub statements: bool,
}

/// A private server on a free port of 127.0.0.1, without passwords. Dropping it kills it.
#[derive(Debug)]
pub struct Postgres {
    program: Program,
    running: Running,
    port: u16,
    /// Not below the caller's directory: the unprivileged user could not go through it.
    _data: TempDir,
}

impl Postgres {
    /// Starts one without fsync; its log goes below `dir`. Takes one or two seconds.
    ///
    /// # Errors
    /// When `PostgreSQL` is missing or does not come up; the end of its log is quoted.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(dir, PostgresOptions::default()).await
    }

    /// Starts one as chosen.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn start_with(dir: &Path, options: PostgresOptions) -> anyhow::Result<Self> {
        let log = dir.join("postgres/postgres.log");
        let data = TempDir::with_prefix("countersign-postgres-")?;
        let user = unprivileged_user(data.path())?;
        let cluster = data.path().join("cluster");
        let as_user = |name: &str| -> anyhow::Result<Program> {
            let program = Program::new(find_postgres(name)?).current_dir(data.path()).log_to(&log).env("LC_ALL", "C");
            Ok(match user {
                Some((uid, gid)) => program.user(uid, gid),
                None => program,
            })
        };
        let init = as_user("initdb")?
            .arg("--pgdata")
            .arg(&cluster)
            .args(["--username", OWNER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C"])
            .args(["--no-sync", "--no-instructions"])
            .spawn()?;
        let status = init.wait(INIT).await?;
        if !status.success() {
            bail!("initdb failed ({status}){}", init.log_tail());
        }
        let port = free_port()?;
        let fsync = if options.fsync { "on" } else { "off" };
        let counted = ["-cshared_preload_libraries=pg_stat_statements"];
        let program = as_user("postgres")?.args(counted.into_iter().filter(|_| options.statements));
        let program = program.arg("-D").arg(&cluster).args([
            "-clisten_addresses=127.0.0.1".to_owned(),
            format!("-cport={port}"),
            "-cunix_socket_directories=".to_owned(),
            format!("-cmax_connections={CONNECTIONS}"),
            format!("-cfsync={fsync}"),
            "-cshared_buffers=64MB".to_owned(),
        ]);
        let running = program.spawn()?;
        running.wait_for_log(READY, START).await?;
        Ok(Self { program, running, port, _data: data })
    }

    /// The address of the administrative database, whose user may create others.
    pub fn url(&self) -> String {
        format!("postgres://{OWNER}@127.0.0.1:{}/postgres", self.port)
    }

    /// Creates an empty database and returns its address.
    ///
    /// # Errors
    /// When the name is taken or the server does not answer.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        create_database(&self.url(), name).await
    }

    /// The address of a database as one of its users.
    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs `psql` on an address, which stops at the first error, and returns whether it succeeded and what it printed.
    ///
    /// # Errors
    /// When there is no `psql`, or it does not end in time.
    pub async fn psql(url: &str, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let log = tempfile::NamedTempFile::new()?;
        let program = Program::new(find_postgres("psql")?).arg(url).args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]);
        let running = program.args(arguments.iter().copied()).log_to(log.path()).spawn()?;
        let status = running.wait(PSQL).await?;
        Ok((status.success(), running.log_text()))
    }

    /// SIGKILL to the server; its sessions end by themselves.
    pub fn kill9(&self) {
        self.running.kill9();
    }

    /// SIGSTOP to the server itself, which then takes no new sessions. Those that there are go on.
    ///
    /// # Errors
    /// When it has ended, or does not stop.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.running.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.running.resume()
    }

    /// Starts it again on the same port and data; it recovers first.
    ///
    /// # Errors
    /// When it still runs or does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        if self.running.is_alive() {
            bail!("postgres still runs");
        }
        let started = tokio::time::Instant::now();
        loop {
            self.running = self.program.spawn()?;
            match self.running.wait_for_log(READY, START).await {
                Ok(_) => return Ok(()),
                // Sessions of the killed server have not all noticed yet, and the new one refuses to share their memory.
                Err(_) if started.elapsed() < START && self.running.log_text().contains("shared memory block") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends all sessions and stops the server in good order.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.running.signal(Signal::INT)?;
        self.running.wait(STOP).await?;
        Ok(())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT lets it give its shared memory back, which SIGKILL would leave behind; the log is not needed any more.
        if self.running.signal(Signal::QUIT).is_ok() {
            self.running.wait_blocking(STOP);
        }
    }
}

/// Creates an empty database on the server that `url` leads to and returns the address of the new one.
///
/// # Errors
/// When the name is taken, the user may not, or the server does not answer.
pub async fn create_database(url: &str, name: &str) -> anyhow::Result<String> {
    ask(url, &format!("CREATE DATABASE \"{name}\"")).await?;
    let (start, options) = url.split_once('?').map_or((url, None), |(start, options)| (start, Some(options)));
    let (server, _) = start.rsplit_once('/').context("an address without a database name")?;
    Ok(options.map_or_else(|| format!("{server}/{name}"), |options| format!("{server}/{name}?{options}")))
}

/// Drops a database and the sessions in it.
pub(crate) async fn drop_database(url: &str, name: &str) -> anyhow::Result<()> {
    ask(url, &format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).await
}

async fn ask(url: &str, statement: &str) -> anyhow::Result<()> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).connect_timeout(CONNECT).sqlx_logging(false);
    let connection = Database::connect(options).await.with_context(|| format!("connecting to {url}"))?;
    let answer = connection.execute_unprepared(statement).await;
    connection.close().await?;
    answer.with_context(|| statement.to_owned())?;
    Ok(())
}

fn find_postgres(name: &str) -> anyhow::Result<PathBuf> {
    let mut homes = folders("/usr/lib/postgresql", "");
    homes.extend(folders("/opt/homebrew/opt", "postgresql@"));
    homes.extend(folders("/usr/local/opt", "postgresql@"));
    let places: Vec<_> = homes.iter().map(|home| home.join("bin").join(name)).collect();
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => find_program(name, [], "postgres"),
    }
}

/// User and group for the server, who then owns `data`; `None` when we are not root.
fn unprivileged_user(data: &Path) -> anyhow::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let user = UNPRIVILEGED.iter().find_map(|name| Some((id("-u", name)?, id("-g", name)?)));
    let (uid, gid) =
        user.ok_or_else(|| anyhow!("PostgreSQL does not run as root, and none of the users {UNPRIVILEGED:?} exists"))?;
    std::os::unix::fs::chown(data, Some(uid), Some(gid)).context("giving the data directory away")?;
    Ok(Some((uid, gid)))
}

fn id(which: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([which, name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
