//! The Dockerfile: linted, and held against the workspace that it builds.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use countersign_launcher::{binary, tools};
use tokio::process::Command;

use super::file::Compose;
use super::repository;

/// Libraries that the base has: those of C, and libgcc.
const OF_THE_BASE: [&str; 5] = ["linux-vdso.so", "libc.so", "libm.so", "libgcc_s.so", "ld-linux"];

/// The Dockerfile's instructions: without comments, continued lines joined.
fn instructions() -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(repository("deploy/docker/Dockerfile"))?;
    let lines: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    Ok(joined.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|line| !line.is_empty()).collect())
}

/// The rest of the instructions that begin so.
fn those<'a>(instructions: &'a [String], start: &'a str) -> Vec<&'a str> {
    instructions.iter().filter_map(|line| line.strip_prefix(start)).collect()
}

#[tokio::test]
async fn the_dockerfile_passes_the_linter() -> anyhow::Result<()> {
    let hadolint = tools().await?.with_file_name("hadolint");
    let linted = Command::new(hadolint).arg(repository("deploy/docker/Dockerfile")).kill_on_drop(true).output().await?;
    let said = [linted.stdout, linted.stderr].concat();
    ensure!(linted.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    Ok(())
}

#[tokio::test]
async fn what_the_dockerfile_copies_and_builds_is_there() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let ignored = std::fs::read_to_string(repository(".dockerignore"))?;
    let let_through: BTreeSet<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut copied = BTreeSet::new();
    for copy in those(&instructions, "COPY ").into_iter().filter(|copy| !copy.starts_with("--from=")) {
        let mut paths: Vec<_> = copy.split(' ').collect();
        paths.pop();
        copied.extend(paths);
    }
    ensure!(copied == let_through, "copied {copied:?}, let through by .dockerignore {let_through:?}");
    ensure!(copied.iter().all(|path| repository(path).exists()), "{copied:?}");
    let manifest = std::fs::read_to_string(repository("Cargo.toml"))?;
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).context("no members")?;
    for member in members.split('"').filter(|member| member.contains('/')) {
        let folder = member.split('/').next().unwrap_or_default();
        ensure!(copied.contains(folder), "cargo wants to see the member {member}, and {folder} is not copied");
    }

    let build = those(&instructions, "RUN ").into_iter().find(|line| line.contains("cargo build")).context("no cargo build")?;
    ensure!(build.contains("--locked") && !build.contains("--features") && !build.contains("--all-features"), "{build}");
    let packages: Vec<_> = build.split("--package ").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
    let programs: Vec<_> = build.split("\"target/$PROFILE/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    ensure!(packages.len() == 4 && programs == ["upstream", "downstream", "callback", "countersign"], "{build}");
    let mut tree = Command::new(env!("CARGO"));
    tree.current_dir(repository("")).args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none"]);
    let tree = tree.args(packages.iter().flat_map(|package| ["--package", package])).kill_on_drop(true).output().await?;
    let tree = String::from_utf8(tree.stdout)?;
    for package in packages {
        ensure!(tree.lines().any(|line| line.starts_with(&format!("{package} v"))), "no package {package}");
    }
    ensure!(!tree.lines().any(|line| line.starts_with("fail v")), "the images would contain failpoints");
    Ok(())
}

#[tokio::test]
async fn each_image_has_its_program_and_what_that_needs() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let compose = Compose::read().await?;
    let targets: BTreeSet<_> = compose.services()?.values().filter_map(|service| service["build"]["target"].as_str()).collect();
    let stages = instructions.join("\n");
    for target in &targets {
        let stage = stages.split("FROM ").find(|stage| stage.starts_with(&format!("runtime AS {target}\n")));
        let stage = stage.with_context(|| format!("no stage {target}"))?;
        let program = if *target == "command" { "countersign" } else { target };
        ensure!(stage.contains(&format!("COPY --from=build /out/bin/{program} /usr/local/bin/")), "{stage}");
        ensure!(stage.contains(&format!("ENTRYPOINT [\"/usr/local/bin/{program}\"]")), "{stage}");
        let healthy = stage.contains(&format!("CMD [\"/usr/local/bin/{program}\", \"--health\"]"));
        ensure!(healthy != (*target == "command"), "{stage}");
        needs_only_the_base(program).await?;
    }
    ensure!(targets.len() == 4 && those(&instructions, "USER ") == ["10001:10001"], "{targets:?}");
    Ok(())
}

/// What the program is linked to, where there is a program that tells.
async fn needs_only_the_base(program: &str) -> anyhow::Result<()> {
    let Ok(linked) = Command::new("ldd").arg(binary(program)?).kill_on_drop(true).output().await else { return Ok(()) };
    let linked = String::from_utf8(linked.stdout)?;
    let names = linked.lines().filter_map(|line| line.split_whitespace().next()?.rsplit('/').next());
    for name in names {
        ensure!(OF_THE_BASE.iter().any(|had| name.starts_with(had)), "{program} needs {name}, which the base has not");
    }
    Ok(())
}

#[test]
fn the_images_compiler_is_new_enough_and_its_system_the_bases() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let argument = |name: &str| {
        let found = those(&instructions, "ARG ").into_iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.with_context(|| format!("no ARG {name}"))
    };
    let (rust, base) = (argument("RUST")?, argument("BASE")?);
    let (version, system) = rust.trim_start_matches("rust:").split_once("-slim-").with_context(|| rust.to_owned())?;
    ensure!(base == format!("debian:{system}-slim"), "{rust} and {base} are different systems: their libraries differ");
    let manifest = std::fs::read_to_string(repository("Cargo.toml"))?;
    let least = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).context("no rust-version")?;
    let numbers = |text: &str| text.trim_matches('"').split('.').map(str::parse::<u32>).collect::<Result<Vec<_>, _>>();
    ensure!(numbers(version)? >= numbers(least)?, "{rust} is older than {least}");
    Ok(())
}
