//! `countersign topology permissions`: what each user of the broker may do, computed from the topology file.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use countersign_broker::topology::Grant;
use serde_json::{Value, json};

use crate::exit::Done;
use crate::output;
use crate::target::{Format, Target};
use crate::topology;

#[derive(Args)]
pub struct PermissionsArgs {
    /// The topology file.
    #[arg(long, short, default_value = "topology.toml")]
    file: PathBuf,
    /// The virtual host; best one that nothing else uses, since the default exchange reaches every queue in it. The script takes another one
    /// as its argument.
    #[arg(long, default_value = "/")]
    vhost: String,
    /// Leads the names of the users, where several installations share a broker.
    #[arg(long, default_value = "", hide_default_value = true)]
    user_prefix: String,
}

pub fn print(target: &Target, args: &PermissionsArgs) -> anyhow::Result<Done> {
    let mut grants = Grant::all(&topology::wanted(&args.file)?);
    for grant in &mut grants {
        grant.user.insert_str(0, &args.user_prefix);
    }
    match target.output {
        Format::Json => output::write(&format!("{:#}", definitions(&grants, &args.vhost))),
        Format::Table => output::write(script(&grants, &args.vhost).trim_end()),
    }
    Ok(Done::All)
}

/// As `rabbitmqctl import_definitions` and the management interface take them; users are not made by it.
fn definitions(grants: &[Grant], vhost: &str) -> Value {
    let permissions = grants.iter().map(|grant| {
        let [configure, write, read] = grant.patterns();
        json!({"user": grant.user, "vhost": vhost, "configure": configure, "write": write, "read": read})
    });
    json!({"permissions": permissions.collect::<Vec<_>>()})
}

/// As a script of `rabbitmqctl`.
fn script(grants: &[Grant], vhost: &str) -> String {
    let vhost = quoted(vhost);
    let mut script = format!(
        "#!/bin/sh
# What each RabbitMQ user of Countersign may do; whatever it had before is taken back. Printed by `countersign topology permissions --file
# topology.toml`: print and run it again when the topology has changed. Make the users before: `rabbitmqctl add_user NAME`.
# The argument is the virtual host. RABBITMQCTL names another rabbitmqctl than the one on the PATH.
set -eu
[ $# -gt 0 ] || set -- {vhost}
ctl=${{RABBITMQCTL:-rabbitmqctl}}
"
    );
    for grant in grants {
        let [configure, write, read] = grant.patterns().map(|pattern| quoted(&pattern));
        let user = quoted(&grant.user);
        // Writing to a string cannot fail.
        let _ = write!(script, "\n# {}\n\"$ctl\" set_permissions -p \"$1\" {user} {configure} {write} {read}\n", grant.purpose);
        if !grant.tag.is_empty() {
            let _ = writeln!(script, "\"$ctl\" set_user_tags {user} {}", grant.tag);
        }
    }
    script
}

/// One word of a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Below `deploy/`, from here.
    const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

    fn shipped(file: &str) -> String {
        std::fs::read_to_string(format!("{DEPLOY}/{file}")).unwrap()
    }

    #[test]
    fn the_shipped_files_are_what_is_printed_for_the_shipped_topology() {
        let topology = topology::wanted(format!("{DEPLOY}/local/topology.toml").as_ref()).unwrap();
        let grants = Grant::all(&topology);
        let remedy = "print it anew: countersign topology permissions --file deploy/local/topology.toml [-o json]";
        assert_eq!(shipped("rabbitmq/permissions.sh"), script(&grants, "/"), "{remedy}");
        assert_eq!(shipped("rabbitmq/permissions.json"), format!("{:#}\n", definitions(&grants, "/")), "{remedy}");
    }

    #[test]
    fn the_shipped_script_grants_what_the_definitions_do() {
        let mut sh = std::process::Command::new("sh");
        let output = sh.arg(format!("{DEPLOY}/rabbitmq/permissions.sh")).arg("shop").env("RABBITMQCTL", "echo").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let definitions: Value = serde_json::from_str(&shipped("rabbitmq/permissions.json")).unwrap();
        let granted = definitions["permissions"].as_array().unwrap().iter().map(|one| {
            let [user, configure, write, read] = ["user", "configure", "write", "read"].map(|key| one[key].as_str().unwrap());
            format!("set_permissions -p shop {user} {configure} {write} {read}")
        });
        let expected: Vec<_> = granted.chain(["set_user_tags doctor monitoring".to_owned()]).collect();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
        assert!(output.status.success() && expected.len() == 6, "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn a_word_of_the_shell_stays_one() {
        assert_eq!(quoted("a'b c"), r"'a'\''b c'");
    }
}
