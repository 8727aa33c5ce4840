//! Every configuration file that is shipped can be used as it is, and a wrong one is refused with a word on what to do.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use countersign_launcher::{Ground, binary};
use tokio::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = Command::new(binary(program)?).args(arguments).current_dir(root()).kill_on_drop(true).output().await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test]
async fn every_shipped_configuration_is_accepted() -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(root().join("deploy/local"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("no name")?.to_owned();
        if path.extension().is_none_or(|extension| extension != "toml") || name == "topology" {
            continue;
        }
        let file = format!("deploy/local/{name}.toml");
        let (code, said) = run(&name, &["--check-config", "--config", &file]).await?;
        ensure!(code == Some(0), "{name} does not accept {file}: {said}");
        ensure!(!said.contains("guest:guest"), "{name} prints a password: {said}");
        seen.push(name);
    }
    ensure!(seen.len() == 3, "expected a file for each service, found {seen:?}");
    Ok(())
}

#[tokio::test]
async fn the_shipped_topology_can_be_applied() -> anyhow::Result<()> {
    let ground = Ground::new("shipped_topology").await?;
    let arguments = ["topology", "apply", "--file", "deploy/local/topology.toml", "--amqp-url", &ground.amqp_url()];
    let (code, said) = run("countersign", &arguments).await?;
    ensure!(code == Some(0), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_what_to_do() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let rows = [
        ("upstream", "[upstream]\nnmae = \"shop\"\n", "name"),
        ("upstream", "[upstream]\nmax_body_bytes = 99999999\n", "max_body_bytes"),
        ("callback", "[policy]\nresend_lease_ms = 1\n", "resend_lease_ms"),
        ("downstream", "[downstream]\nprefetch = 5000\n", "prefetch"),
        ("downstream", "[broker]\nurl = \"http://nowhere\"\n", "amqp://"),
    ];
    for (program, text, word) in rows {
        let file = dir.path().join("wrong.toml");
        std::fs::write(&file, text)?;
        let (code, said) = run(program, &["--check-config", "--config", &file.display().to_string()]).await?;
        ensure!(code == Some(2) && said.contains(word), "{program} with {text:?} ended with {code:?} and said {said}");
    }
    Ok(())
}
