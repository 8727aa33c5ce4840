//! What an operator may get wrong in files and environment: the process ends with 2, and names the key and the remedy.

use std::path::Path;

use anyhow::ensure;
use countersign_launcher::binary;
use tempfile::TempDir;
use tokio::process::Command;

/// A wrong configuration: of which service, its file, a variable, and the words of the refusal.
type Row<'a> = (&'a str, &'a str, Option<(&'a str, &'a str)>, &'a [&'a str]);

/// Runs a service with this configuration to its end.
async fn run(dir: &Path, (program, text, variable, _): &Row<'_>, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let file = dir.join("wrong.toml");
    std::fs::write(&file, text)?;
    let mut command = Command::new(binary(program)?);
    command.arg("--config").arg(&file).args(arguments).envs(*variable).current_dir(dir).kill_on_drop(true);
    let output = tokio::time::timeout(countersign_flow::PATIENCE, command.output()).await??;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

/// Each is refused when it is checked, and just as well when the service is started with it.
async fn all_refused(rows: &[Row<'_>]) -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    std::fs::write(dir.path().join("malformed.toml"), "version = 1\n[[exchange]\n")?;
    std::fs::write(dir.path().join("unknown_key.toml"), "version = 1\nexchnge = []\n")?;
    for row in rows {
        for arguments in [&["--check-config"][..], &[]] {
            let (code, said) = run(dir.path(), row, arguments).await?;
            ensure!(code == Some(2), "{row:?} {arguments:?} ended with {code:?}: {said}");
            for word in row.3 {
                ensure!(said.contains(word), "{row:?} {arguments:?} does not say {word:?}: {said}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_the_closest_known_one() -> anyhow::Result<()> {
    all_refused(&[
        (
            "upstream",
            "[upstream]\nmax_body_byte = 5\n",
            None,
            &["upstream.max_body_byte", "`upstream.max_body_bytes`", "wrong.toml"],
        ),
        ("downstream", "[downstream]\nprefetc = 5\n", None, &["downstream.prefetc", "`downstream.prefetch`"]),
        ("callback", "[policy]\nmax_resend = 5\n", None, &["policy.max_resend", "`policy.max_resends`"]),
        ("callback", "[polcy]\nmax_resends = 5\n", None, &["polcy", "`policy`"]),
    ])
    .await
}

#[tokio::test]
async fn an_unknown_variable_is_refused_with_the_closest_known_key() -> anyhow::Result<()> {
    all_refused(&[
        (
            "upstream",
            "",
            Some(("COUNTERSIGN_UPSTREAM__HEARTBEAT", "5")),
            &["upstream.heartbeat", "`upstream.heartbeat_ms`", "environment"],
        ),
        ("downstream", "", Some(("COUNTERSIGN_REDIS__ULR", "redis://127.0.0.1")), &["redis.ulr", "`redis.url`"]),
        ("callback", "", Some(("COUNTERSIGN_BROKER__ULR", "amqp://127.0.0.1")), &["broker.ulr", "`broker.url`"]),
        (
            "callback",
            "",
            Some(("COUNTERSIGN_BROKER_URL", "amqp://127.0.0.1")),
            &["COUNTERSIGN_BROKER_URL", "COUNTERSIGN_BROKER__URL"],
        ),
    ])
    .await
}

#[tokio::test]
async fn a_wrong_value_is_refused_with_its_key() -> anyhow::Result<()> {
    all_refused(&[
        ("upstream", "[upstream]\nmax_batch = \"many\"\n", None, &["upstream.max_batch", "many"]),
        ("upstream", "[upstream]\nmax_body_bytes = 0\n", None, &["max_body_bytes"]),
        ("upstream", "[upstream]\nname = \"a b\"\n", None, &["a b"]),
        ("downstream", "[downstream]\nlease_ms = -1\n", None, &["downstream.lease_ms"]),
        ("downstream", "[redis]\nurl = \"\"\n", None, &["redis.url is empty"]),
        ("callback", "[policy]\nmax_unknown_answers = 1\n", None, &["max_unknown_answers is below 2"]),
        ("callback", "", Some(("COUNTERSIGN_POLICY__MAX_RESENDS", "three")), &["policy.max_resends", "three"]),
        ("callback", "[http]\nlisten = \"localhost\"\n", None, &["http.listen"]),
        ("callback", "[database\n", None, &["wrong.toml is not TOML"]),
    ])
    .await
}

#[tokio::test]
async fn a_database_of_another_kind_is_refused() -> anyhow::Result<()> {
    let words: &[&str] = &["database.url is neither sqlite:<path> nor postgres://"];
    all_refused(&[
        ("upstream", "[database]\nurl = \"mysql://root:hush@127.0.0.1/shop\"\n", None, words),
        ("callback", "", Some(("COUNTERSIGN_DATABASE__URL", "mongodb://127.0.0.1/msg")), words),
    ])
    .await
}

#[tokio::test]
async fn a_topology_that_cannot_be_used_is_refused_with_its_file() -> anyhow::Result<()> {
    let missing = "[topology]\nfile = \"nowhere.toml\"\n";
    let malformed = "[topology]\nfile = \"malformed.toml\"\n";
    let unknown = "[topology]\nfile = \"unknown_key.toml\"\n";
    for program in ["upstream", "downstream", "callback"] {
        all_refused(&[
            (program, missing, None, &["topology.file nowhere.toml cannot be read"]),
            (program, malformed, None, &["topology.file malformed.toml is refused", "line 2"]),
            (program, unknown, None, &["topology.file unknown_key.toml is refused", "exchnge", "exchange"]),
        ])
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_configuration_file_is_named() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    for program in ["upstream", "downstream", "callback"] {
        let output = Command::new(binary(program)?)
            .args(["--config", "nowhere.toml"])
            .current_dir(dir.path())
            .kill_on_drop(true)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains("nowhere.toml cannot be read"), "{program}: {output:?}");
    }
    Ok(())
}
