//! A private Redis.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::port::free_port;
use crate::program::{Program, Running};

/// Numbered databases of a private server: enough that every test of a run has one of its own.
const DATABASES: u32 = 512;
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(10);
const COMMAND: Duration = Duration::from_secs(5);
const PLACES: [&str; 2] = ["/opt/homebrew/bin/redis-server", "/usr/local/bin/redis-server"];

/// What a test may choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct RedisOptions {
    /// Keep an append-only file, written through on every command: what was answered survives [`Redis::kill9`].
    pub appendonly: bool,
    /// Dawdle over each key while loading what was kept, and say LOADING meanwhile.
    pub loads_slowly: bool,
}

/// A private Redis on a free port of 127.0.0.1, empty at first. Dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    program: Program,
    running: Running,
    port: u16,
}

impl Redis {
    /// Starts one without persistence whose log and data go below `dir`.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not come up; the end of its log is quoted.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(dir, RedisOptions::default()).await
    }

    /// Starts one as chosen.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub async fn start_with(dir: &Path, options: RedisOptions) -> anyhow::Result<Self> {
        Self::start_also(dir, options, &[]).await
    }

    /// Starts one without persistence whose users are those of an ACL file.
    ///
    /// # Errors
    /// As [`Redis::start`]; and when it does not take the file.
    pub async fn start_with_users(dir: &Path, acl_file: &Path) -> anyhow::Result<Self> {
        Self::start_also(dir, RedisOptions::default(), &["--aclfile".as_ref(), acl_file.as_os_str()]).await
    }

    async fn start_also(dir: &Path, options: RedisOptions, more: &[&OsStr]) -> anyhow::Result<Self> {
        let path = crate::shared::find_program("redis-server", PLACES.map(PathBuf::from), "redis")?;
        let dir = dir.join("redis");
        std::fs::create_dir_all(&dir)?;
        let port = free_port()?;
        let appendonly = if options.appendonly { "yes" } else { "no" };
        // Microseconds for each key; clients are answered after so many bytes.
        let loading = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"];
        let program = Program::new(path)
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--databases", &DATABASES.to_string(), "--save", ""])
            .args(["--appendonly", appendonly, "--appendfsync", "always"])
            // What the claims need: a full Redis must refuse, not forget.
            .args(["--maxmemory-policy", "noeviction", "--daemonize", "no"])
            .arg("--dir")
            .arg(&dir)
            .args(loading.into_iter().filter(|_| options.loads_slowly))
            .args(more)
            .log_to(dir.join("redis.log"));
        let running = program.spawn()?;
        let redis = Self { program, running, port };
        redis.ready().await?;
        Ok(redis)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        self.running.wait_for_log("Ready to accept connections", START).await?;
        Ok(())
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends one command whose arguments need no quoting, such as `CONFIG SET maxmemory 1gb`, and returns the lines of its answer.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn command(&self, line: &str) -> anyhow::Result<Vec<String>> {
        command(&self.url(), line).await
    }

    /// As [`Redis::command`], as a user.
    ///
    /// # Errors
    /// As there; and when the user is refused.
    pub async fn command_as(&self, user: &str, password: &str, line: &str) -> anyhow::Result<Vec<String>> {
        command(&format!("redis://{user}:{password}@127.0.0.1:{}", self.port), line).await
    }

    /// SIGKILL.
    pub fn kill9(&self) {
        self.running.kill9();
    }

    /// SIGSTOP: clients stay connected and get no answer.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.running.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.running.resume()
    }

    /// Starts it again on the same port and data; empty unless [`RedisOptions::appendonly`].
    ///
    /// # Errors
    /// When it still runs or does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.spawn_again()?;
        self.ready().await
    }

    /// As [`Redis::start_again`], without waiting until it is ready.
    ///
    /// # Errors
    /// When it still runs.
    pub fn spawn_again(&mut self) -> anyhow::Result<()> {
        if self.running.is_alive() {
            bail!("redis still runs");
        }
        self.running = self.program.spawn()?;
        Ok(())
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.running.signal(Signal::TERM)?;
        self.running.wait(STOP).await?;
        Ok(())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }
}

/// Whether a Redis can be used; `url` is `redis://[user:password@]host:port`. One behind TLS is not asked.
///
/// # Errors
/// When it does not answer, or with an error.
pub async fn redis_answers(url: &str) -> anyhow::Result<()> {
    if !url.starts_with("redis://") {
        return Ok(());
    }
    command(url, "PING").await.map(|_| ())
}

/// Sends one command without arguments that need quoting, to the numbered database that the address names, and returns the lines of a simple,
/// flat or text answer.
pub(crate) async fn command(url: &str, command: &str) -> anyhow::Result<Vec<String>> {
    let rest = url.strip_prefix("redis://").unwrap_or(url);
    let (address, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, address) = address.rsplit_once('@').map_or((None, address), |(c, a)| (Some(c), a));
    timeout(COMMAND, exchange(address, credentials, database, command))
        .await
        .with_context(|| format!("no answer from Redis at {address} within {COMMAND:?}"))?
        .with_context(|| format!("asking Redis at {address}"))
}

async fn exchange(address: &str, credentials: Option<&str>, database: &str, command: &str) -> anyhow::Result<Vec<String>> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    if let Some((user, password)) = credentials.and_then(|pair| pair.split_once(':')) {
        stream.write_all(format!("AUTH {user} {password}\r\n").replace("  ", " ").as_bytes()).await?;
        read_answer(&mut stream).await?;
    }
    if !database.is_empty() {
        stream.write_all(format!("SELECT {database}\r\n").as_bytes()).await?;
        read_answer(&mut stream).await?;
    }
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    read_answer(&mut stream).await
}

async fn read_answer(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Vec<String>> {
    let first = read_line(stream).await?;
    let (kind, rest) = first.split_at_checked(1).context("an empty answer")?;
    match kind {
        "+" | ":" => Ok(vec![rest.to_owned()]),
        "$" => {
            // The end of the line behind it is not counted.
            let mut text = vec![0; rest.parse::<usize>()? + 2];
            stream.read_exact(&mut text).await?;
            Ok(String::from_utf8(text)?.lines().map(str::to_owned).collect())
        }
        "*" => {
            let mut items = Vec::new();
            for _ in 0..rest.parse::<usize>()? {
                let _length = read_line(stream).await?;
                items.push(read_line(stream).await?);
            }
            Ok(items)
        }
        _ => bail!("Redis answered {first}"),
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}
