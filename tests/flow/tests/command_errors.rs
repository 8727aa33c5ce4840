//! The command's manners: each exit code, errors in JSON on every verb, completions.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::Flow;
use countersign_launcher::{Which, binary, free_port};
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::command::{SETUP, error, expect};

const NO_ID: &str = "0190a000-0000-7000-8000-000000000000";

/// Runs the command as a user types it: no address, no format.
async fn typed(arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(binary("countersign")?);
    let running = command.args(arguments).env_remove("COUNTERSIGN_UPSTREAM_URL").kill_on_drop(true).output();
    Ok(timeout(Duration::from_mins(1), running).await??)
}

/// The verbs, each with a command line that reaches a service.
fn verbs<'a>(topology: &'a str, rows: &'a str) -> [Vec<&'a str>; 10] {
    let send = ["send", "--exchange", "orders", "--type", "order.created"];
    [
        [&send[..], &["--body", "{}"]].concat(),
        [&send[..], &["--id-field", "order_id", "--file", rows]].concat(),
        vec!["get", NO_ID],
        vec!["get", "--key", "nobody"],
        vec!["list"],
        vec!["resend", NO_ID],
        vec!["outbox", "list"],
        vec!["outbox", "release", NO_ID],
        vec!["topology", "apply", "--file", topology],
        vec!["topology", "verify", "--file", topology],
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_tells_in_json_that_its_service_is_away() -> anyhow::Result<()> {
    let flow = Flow::new("errors_away", SETUP).await?;
    let topology = flow.system.topology_file().display().to_string();
    let rows = flow.ground.path("rows.csv");
    std::fs::write(&rows, "order_id\nK-1\n")?;
    let nobody = format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port()?);
    for mut verb in verbs(&topology, &rows.display().to_string()) {
        if verb[0] == "topology" {
            verb.extend(["--amqp-url", &nobody]);
        }
        expect(&flow, 3, &verb).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_tells_in_json_what_is_wrong_with_its_input() -> anyhow::Result<()> {
    let mut flow = Flow::new("errors_input", SETUP).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let missing = flow.ground.path("missing").display().to_string();
    let send = ["send", "--exchange", "orders", "--type", "order.created"];
    let table: [(Vec<&str>, &str); 14] = [
        // Read by the service.
        (vec!["send", "--exchange", "nowhere", "--type", "a", "--body", "{}"], "no subscription gets"),
        (vec!["get", NO_ID], "no such message"),
        (vec!["list", "--state", "wonderful"], "wonderful"),
        (vec!["resend", NO_ID], ""),
        (vec!["outbox", "release", "no-uuid"], ""),
        // Read by the command.
        ([&send[..], &["--body-file", &missing]].concat(), "cannot be read"),
        ([&send[..], &["--id-field", "a", "--format", "csv", "--file", &missing]].concat(), "cannot be read"),
        (vec!["topology", "apply", "--file", &missing], "cannot be read"),
        (vec!["topology", "verify", "--file", &missing], "cannot be read"),
        (vec!["--upstream", "no address", "get", NO_ID], "is not an address"),
        // Not understood at all.
        (vec!["list", "--limit", "many"], "--limit"),
        (vec!["outbox", "release"], "<IDS>"),
        (vec!["completions", "tcsh"], "possible values: bash"),
        (vec!["wonder"], "unrecognized subcommand"),
    ];
    for (arguments, words) in table {
        let said = match arguments[0] {
            // The address is given twice then, which is an error of its own.
            "--upstream" => {
                let output = typed(&[&["-o", "json"], &arguments[..]].concat()).await?;
                error(2, &String::from_utf8_lossy(&output.stderr))?
            }
            _ => expect(&flow, 2, &arguments).await?,
        };
        ensure!(said.as_str().is_some_and(|said| said.contains(words)), "{arguments:?}: {said} does not say {words}");
    }
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_codes_are_those_of_the_help() -> anyhow::Result<()> {
    // 130 and 143 are seen where a sender is stopped: `command_resumed.rs`.
    let mut flow = Flow::new("errors_codes", SETUP).await?;
    let topology = flow.system.topology_file().display().to_string();
    expect(&flow, 1, &["topology", "verify", "--file", &topology]).await?;
    expect(&flow, 3, &["list"]).await?;
    flow.start(&[Which::Upstream]).await?;
    expect(&flow, 0, &["topology", "verify", "--file", &topology]).await?;
    expect(&flow, 2, &["get", "no-uuid"]).await?;
    let help = typed(&["--help"]).await?;
    let text = String::from_utf8(help.stdout)?;
    ensure!(help.status.success() && help.stderr.is_empty());
    for line in ["  0    ", "  1    ", "  2    ", "  3    ", "  130  "] {
        ensure!(text.contains(line), "{line:?} is missing in {text}");
    }
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_did_not_ask_for_json_reads_plain_words() -> anyhow::Result<()> {
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let output = typed(&["list", "--callback", &nobody]).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(3) && said.starts_with("countersign: callback does not answer"), "{said}");
    let output = typed(&["list", "--limit", "many"]).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2) && said.starts_with("error: invalid value 'many'"), "{said}");
    let help = String::from_utf8(typed(&["send", "--help"]).await?.stdout)?;
    for words in ["Examples:", "--file orders.csv", "--rejected <FILE>", "possible values"] {
        ensure!(help.to_lowercase().contains(&words.to_lowercase()), "{words} is missing in {help}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shell_gets_a_script_and_bash_completes_a_verb_with_it() -> anyhow::Result<()> {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = typed(&["completions", shell]).await?;
        let script = String::from_utf8(output.stdout)?;
        ensure!(output.status.success() && script.contains("topology") && script.contains("id-field"), "{shell}: {script}");
    }
    let script = typed(&["completions", "bash"]).await?.stdout;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), script)?;
    let checked = Command::new("bash").arg("-n").arg(file.path()).output().await?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // As bash calls it when somebody types `countersign to` and the tabulator.
    let complete = "source \"$1\"; COMP_WORDS=(countersign to); COMP_CWORD=1; _countersign countersign to countersign; echo \"${COMPREPLY[@]}\"";
    let completed = Command::new("bash").args(["-c", complete, "bash"]).arg(file.path()).output().await?;
    let words = String::from_utf8(completed.stdout).context("no text")?;
    ensure!(words.trim() == "topology", "{words:?}; {}", json!(String::from_utf8_lossy(&completed.stderr)));
    Ok(())
}
