//! Every command of the README is run, as it stands there, and every snippet in it is real.
//!
//! Blocks marked `sh` run one after another in one shell; `sh terminal` blocks run beside them to the end, as in a second terminal. The
//! only thing that is changed is where things listen: a test must not take the ports that a user's own system may use.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign_launcher::{AMQP, AMQP_ADMIN, Ground, Program, REDIS, binary, free_hundred, free_port};
use tempfile::TempDir;
use tokio::process::Command;

/// These two are run by continuous integration, which this test is a part of.
const RUN_BY_CI: [&str; 2] = ["deploy/local/demo", "tests/run"];
/// The section whose commands need servers that are there; the others start theirs.
const OWN_SERVERS: &str = "With servers of your own";
/// The ports of the services begin with these digits in everything that is shipped.
const SHIPPED_PORTS: &str = "127.0.0.1:71";
/// Where the shipped downstream expects the handler.
const SHIPPED_HANDLER: &str = "127.0.0.1:9000";
/// The last two digits of the ports that are taken.
const PORT_ENDS: [u16; 5] = [1, 3, 11, 12, 13];
/// All of it, servers included.
const PATIENCE: Duration = Duration::from_secs(200);
/// Time to end what was started.
const STOP: Duration = Duration::from_mins(1);

/// A fenced block.
#[derive(Debug)]
struct Block {
    section: String,
    line: usize,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn readme() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(root().join("README.md"))?)
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut open, mut section) = (false, "");
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(title) = line.strip_prefix("## ").filter(|_| !open) {
            section = title;
        }
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                let (section, language) = (section.to_owned(), language.trim().to_owned());
                blocks.push(Block { section, line: number + 1, language, text: String::new() });
            }
            None if open => {
                if let Some(block) = blocks.last_mut() {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
            None => {}
        }
    }
    blocks
}

/// A copy of what the README's commands use, with other ports, and a place for what they write.
struct Sandbox {
    dir: TempDir,
    ports: String,
    handler: String,
}

impl Sandbox {
    fn new() -> anyhow::Result<Self> {
        let hundred = free_hundred(&PORT_ENDS)?;
        let sandbox = Self {
            dir: TempDir::with_prefix("countersign-readme-")?,
            ports: format!("127.0.0.1:{hundred}"),
            handler: format!("127.0.0.1:{}", free_port()?),
        };
        for name in ["deploy", "proto", "Cargo.toml"] {
            sandbox.copy(&root().join(name), &sandbox.dir.path().join(name))?;
        }
        // What the README has built was built before the tests.
        let cargo = sandbox.dir.path().join("bin/cargo");
        std::fs::create_dir(sandbox.dir.path().join("bin"))?;
        std::fs::write(
            &cargo,
            "#!/bin/sh\n[ \"$1\" = build ] || { echo \"only 'cargo build' is expected here\" >&2; exit 1; }\n",
        )?;
        std::fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(sandbox)
    }

    fn copy(&self, from: &Path, to: &Path) -> anyhow::Result<()> {
        if from.is_dir() {
            std::fs::create_dir(to)?;
            for entry in std::fs::read_dir(from)? {
                let name = entry?.file_name();
                self.copy(&from.join(&name), &to.join(&name))?;
            }
            return Ok(());
        }
        std::fs::write(to, self.moved(&std::fs::read_to_string(from)?))?;
        std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
        Ok(())
    }

    /// The same text with the ports of this sandbox.
    fn moved(&self, text: &str) -> String {
        text.replace(SHIPPED_PORTS, &self.ports).replace(SHIPPED_HANDLER, &self.handler)
    }

    /// What was said in the other terminals.
    fn logs(&self) -> anyhow::Result<String> {
        let mut logs = String::new();
        for entry in std::fs::read_dir(self.dir.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let _ = write!(logs, "\n-- {}:\n{}", path.display(), std::fs::read_to_string(&path)?);
            }
        }
        Ok(logs)
    }

    /// All blocks as one script that says which line it is at and ends what it started.
    fn script(&self, blocks: &[Block]) -> String {
        let mut script = String::from(
            "set -eu\nfinish() {\n  code=$?\n  trap '' TERM\n  jobs -p >jobs\n  while read -r job; do kill -TERM \"$job\" || :; done <jobs\n  \
             wait\n  exit $code\n}\ntrap finish EXIT\ntrap 'exit 143' TERM\n",
        );
        for block in blocks {
            let (line, text) = (block.line, self.moved(&block.text));
            // Writing to a string cannot fail.
            let _ = writeln!(script, "echo '== README.md line {line}'");
            if block.language == "sh terminal" {
                let (command, log) = (text.trim_end(), format!("beside-{line}.log"));
                let _ = writeln!(script, "{command} >{log} 2>&1 &");
                let gone = format!("kill -0 $! || {{ cat {log}; exit 1; }}");
                let _ = writeln!(script, "until grep -q -e ^Ready -e ^listening {log}; do {gone}; sleep 0.2; done");
            } else {
                script.push_str(&text);
            }
        }
        script
    }
}

/// The blocks to be run: what a newcomer types, without what continuous integration runs anyway.
fn commands(text: &str) -> anyhow::Result<Vec<Block>> {
    let mut commands: Vec<_> = blocks(text).into_iter().filter(|block| block.language.starts_with("sh")).collect();
    for block in &commands {
        let lines = block.text.lines().count();
        ensure!(
            block.language == "sh" || lines == 1,
            "line {}: a second terminal runs one command, not {lines} lines",
            block.line
        );
        ensure!(
            ["sh", "sh terminal"].contains(&block.language.as_str()),
            "line {}: no such block: {}",
            block.line,
            block.language
        );
    }
    let first_words =
        |line: &str| RUN_BY_CI.iter().any(|command| line.split('#').next().is_some_and(|line| line.trim() == *command));
    commands.retain(|block| !block.text.lines().all(first_words));
    Ok(commands)
}

/// Runs these blocks in a sandbox, with more variables.
async fn run(sandbox: &Sandbox, blocks: &[Block], variables: &[(&str, &str)]) -> anyhow::Result<()> {
    let dir = sandbox.dir.path();
    std::fs::write(dir.join("readme.sh"), sandbox.script(blocks))?;
    let target = binary("countersign")?.parent().and_then(Path::parent).context("no target directory")?.to_owned();
    let own = [dir.join("bin"), target.join("debug")].into_iter();
    let path = std::env::join_paths(own.chain(std::env::split_paths(&std::env::var("PATH")?)))?;
    let program = Program::new("/bin/sh")
        .arg(dir.join("readme.sh"))
        .current_dir(dir)
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env("PORT", sandbox.handler.rsplit(':').next().unwrap_or_default())
        .env("COUNTERSIGN_UPSTREAM_URL", sandbox.moved("http://127.0.0.1:7101"))
        .env("COUNTERSIGN_CALLBACK_URL", sandbox.moved("http://127.0.0.1:7103"))
        .env_remove(AMQP)
        .env_remove(AMQP_ADMIN)
        .env_remove(REDIS)
        .log_to(dir.join("readme.log"));
    std::fs::create_dir(dir.join("target"))?;
    std::os::unix::fs::symlink(target.join("debug"), dir.join("target/debug"))?;
    let running = variables.iter().fold(program, |program, (name, value)| program.env(name, value)).spawn()?;
    let ended = running.wait(PATIENCE).await;
    if ended.is_err() {
        running.terminate()?;
        let _ = running.wait(STOP).await;
    }
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("the README's commands ended with {status}:{}", sandbox.logs()?),
        Err(error) => bail!("{error}:{}", sandbox.logs()?),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_works_as_it_stands() -> anyhow::Result<()> {
    let sandbox = Sandbox::new()?;
    let mut commands = commands(&readme()?)?;
    commands.retain(|block| block.section != OWN_SERVERS);
    ensure!(commands.len() >= 8, "only {} blocks of commands were found", commands.len());
    run(&sandbox, &commands, &[]).await?;
    let orders = std::fs::read_to_string(sandbox.dir.path().join("orders.jsonl"))?;
    ensure!(orders.contains("A-17"), "the handler of the README has not got its order: {orders}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_with_servers_of_ones_own() -> anyhow::Result<()> {
    let (ground, sandbox) = (Ground::new("readme").await?, Sandbox::new()?);
    let mut commands = commands(&readme()?)?;
    commands.retain(|block| block.section == OWN_SERVERS);
    ensure!(commands.len() == 1, "{} blocks of commands are under {OWN_SERVERS:?}", commands.len());
    let amqp = ground.amqp_url();
    let variables = [
        ("COUNTERSIGN_BROKER__URL", amqp.as_str()),
        ("COUNTERSIGN_AMQP_URL", &amqp),
        ("COUNTERSIGN_REDIS__URL", ground.redis_url()),
        ("COUNTERSIGN_MANAGEMENT_URL", ground.broker().admin_url()),
    ];
    run(&sandbox, &commands, &variables).await
}

#[test]
fn every_snippet_stands_in_a_file_that_is_built_or_run() -> anyhow::Result<()> {
    let mut seen = 0;
    for block in blocks(&readme()?) {
        let folders: &[&str] = match block.language.as_str() {
            "rust" => &["services/upstream/examples", "services/downstream/examples"],
            "python" | "js" => &["deploy/examples"],
            _ => continue,
        };
        let mut found = false;
        for folder in folders {
            for entry in std::fs::read_dir(root().join(folder))? {
                let path = entry?.path();
                found |= path.is_file() && std::fs::read_to_string(&path)?.contains(&block.text);
            }
        }
        ensure!(found, "README.md line {}: this snippet stands in none of {folders:?}:\n{}", block.line, block.text);
        seen += 1;
    }
    ensure!(seen >= 2, "only {seen} snippets were found");
    Ok(())
}

#[test]
fn every_topology_is_accepted() -> anyhow::Result<()> {
    for block in blocks(&readme()?).iter().filter(|block| block.language == "toml" && block.text.starts_with("version")) {
        countersign_delivery::Topology::from_toml(&block.text).with_context(|| format!("README.md line {}", block.line))?;
    }
    Ok(())
}

/// Each `countersign VERB --option` in running text exists.
#[tokio::test]
async fn every_verb_that_is_named_exists() -> anyhow::Result<()> {
    let text = readme()?;
    let named: Vec<_> = text.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("countersign ")).collect();
    ensure!(named.len() >= 5, "only {named:?} were found");
    for words in named {
        let verbs = words.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        let of_two_words = ["topology", "outbox", "dead"].iter().any(|verb| words.starts_with(verb));
        let verbs: Vec<_> = verbs.take(if of_two_words { 2 } else { 1 }).collect();
        let output = Command::new(binary("countersign")?).args(&verbs).arg("--help").output().await?;
        let help = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "`countersign {words}`: {}", String::from_utf8_lossy(&output.stderr));
        for option in words.split_whitespace().filter(|word| word.starts_with('-')) {
            ensure!(help.contains(option), "`countersign {words}`: {option} is not in its help:\n{help}");
        }
    }
    Ok(())
}
