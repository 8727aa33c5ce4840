//! `deploy/local/install` on machines that are made up: stubs stand for the package manager and for systemd.

#![allow(clippy::disallowed_methods, reason = "a test looks into its own environment")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// What the script may use of a real machine.
const REAL_TOOLS: [&str; 14] =
    ["cat", "chmod", "date", "dirname", "env", "ls", "mkdir", "mv", "rm", "rmdir", "sed", "sh", "tr", "uname"];

/// Notes the call and what protects the machine at that moment, then puts the files of the packages in place.
const APT_GET: &str = r#"
case " $* " in *" install "*) ;; *) echo "apt-get $1" >>"$NOTES"; exit 0 ;; esac
echo "apt-get install" >>"$NOTES"
"$COUNTERSIGN_ROOT/usr/sbin/policy-rc.d" redis-server start && echo "a start is allowed" >>"$NOTES"
conf=$COUNTERSIGN_ROOT/etc/postgresql-common/createcluster.d/countersign.conf
if [ -e "$conf" ]; then echo "cluster: $(cat "$conf")" >>"$NOTES"; fi
if [ -n "$APT_FAILS" ]; then exit 100; fi
put() { mkdir -p "${1%/*}"; echo '#!/bin/sh' >"$1"; chmod 755 "$1"; }
for package in "$@"; do
    case $package in
    redis-server) put "$BIN/redis-server" ;;
    postgresql) put "$COUNTERSIGN_ROOT/usr/lib/postgresql/15/bin/postgres" ;;
    python3-venv) put "$BIN/python3"; echo 'echo 3.11' >>"$BIN/python3" ;;
    nodejs) put "$BIN/node"; echo 'echo v18.19.0' >>"$BIN/node" ;;
    curl) put "$BIN/curl" ;;
    prometheus) put "$BIN/prometheus"; put "$BIN/promtool" ;;
    rabbitmq-server)
        home=$COUNTERSIGN_ROOT/usr/lib/rabbitmq/lib/rabbitmq_server-$RABBITMQ_VERSION
        put "$home/sbin/rabbitmq-server"
        mkdir -p "$home/plugins/rabbit-$RABBITMQ_VERSION"
        ;;
    esac
done
"#;

struct Machine {
    dir: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Machine {
    /// Debian with systemd, as root, with a good toolchain and no server.
    fn new() -> Self {
        let machine = Self { dir: TempDir::new().unwrap(), environment: Vec::new() };
        for folder in ["bin", "root/run/systemd/system", "root/usr/sbin"] {
            fs::create_dir_all(machine.dir.path().join(folder)).unwrap();
        }
        let path = std::env::var_os("PATH").unwrap();
        for tool in REAL_TOOLS {
            let real = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|path| path.exists());
            symlink(real.unwrap(), machine.bin().join(tool)).unwrap();
        }
        machine.stub("apt-get", APT_GET);
        machine.stub("systemctl", r#"echo "systemctl $*" >>"$NOTES""#);
        machine.stub("update-rc.d", r#"echo "update-rc.d $*" >>"$NOTES""#);
        machine.stub("id", "echo 0");
        machine.stub("cargo", "");
        machine.stub("cc", "");
        machine.stub("rustc", "echo 'rustc 1.95.0 (abc 2026-04-14)'");
        machine
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn stub(&self, name: &str, script: &str) {
        executable(&self.bin().join(name), &format!("#!/bin/sh\n{script}\n"));
    }

    fn without(self, path: &str) -> Self {
        let path = self.dir.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        self
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    fn install(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/local/install");
        Command::new(script)
            .args(arguments)
            .env_clear()
            .env("PATH", self.bin())
            .env("BIN", self.bin())
            .env("NOTES", self.dir.path().join("notes"))
            .env("COUNTERSIGN_ROOT", self.dir.path().join("root"))
            .env("RABBITMQ_VERSION", "3.10.8")
            .env("APT_FAILS", "")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    /// What the stubs were called for, in order.
    fn notes(&self) -> Vec<String> {
        let notes = fs::read_to_string(self.dir.path().join("notes")).unwrap_or_default();
        notes.lines().map(str::to_owned).collect()
    }
}

fn executable(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn units_are_masked_before_and_unmasked_and_disabled_after() {
    let machine = Machine::new();
    let output = machine.install(&["redis"]);
    assert!(output.status.success(), "{}", words(&output));
    let wanted = [
        "systemctl mask redis-server.service",
        "apt-get update",
        "apt-get install",
        "update-rc.d redis-server disable",
        "systemctl unmask redis-server.service",
        "systemctl disable redis-server.service",
    ];
    assert_eq!(machine.notes(), wanted);
    assert!(!machine.root("usr/sbin/policy-rc.d").exists(), "later installations start services again");
}

#[test]
fn the_port_mapper_of_the_broker_is_masked_only_if_it_is_new_here() {
    for (known, count) in [(false, 3), (true, 1)] {
        let machine = Machine::new();
        if known {
            machine.stub("epmd", "");
        }
        assert!(machine.install(&["rabbitmq"]).status.success());
        assert_eq!(machine.notes()[0].split_whitespace().count() - 2, count, "{:?}", machine.notes());
    }
}

#[test]
fn a_policy_that_was_there_is_put_back() {
    let machine = Machine::new().without("root/run");
    let policy = machine.root("usr/sbin/policy-rc.d");
    executable(&policy, "#!/bin/sh\nexit 0\n");
    assert!(machine.install(&["redis"]).status.success());
    assert!(!machine.notes().contains(&"a start is allowed".to_owned()), "{:?}", machine.notes());
    assert!(!machine.notes().iter().any(|note| note.starts_with("systemctl mask")), "no systemd runs");
    assert_eq!(fs::read_to_string(policy).unwrap(), "#!/bin/sh\nexit 0\n");
}

#[test]
fn postgres_gets_no_cluster_of_its_own() {
    let machine = Machine::new();
    assert!(machine.install(&["postgres"]).status.success());
    assert!(machine.notes().contains(&"cluster: create_main_cluster = false".to_owned()), "{:?}", machine.notes());
    assert!(!machine.root("etc/postgresql-common/createcluster.d").exists());
}

#[test]
fn a_failed_installation_is_tidied_up() {
    let machine = Machine::new().with("APT_FAILS", "yes");
    let output = machine.install(&["redis", "postgres"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("apt-get install redis-server postgresql failed"), "{}", words(&output));
    assert!(machine.notes().contains(&"systemctl unmask redis-server.service".to_owned()), "{:?}", machine.notes());
    assert!(!machine.root("usr/sbin/policy-rc.d").exists());
}

#[test]
fn what_is_there_is_left_alone() {
    let machine = Machine::new();
    let all = ["rabbitmq", "redis", "postgres", "python", "node", "curl", "prometheus"];
    let output = machine.install(&all);
    assert!(output.status.success(), "{}", words(&output));
    let before = machine.notes();
    assert!(machine.install(&all).status.success());
    assert_eq!(machine.notes(), before);
}

#[test]
fn an_old_broker_is_refused_with_the_reason() {
    for (version, good) in [("3.9.29", false), ("2.99.0", false), ("3.10.0", true), ("3.13.7", true), ("4.0.5", true)] {
        let machine = Machine::new().with("RABBITMQ_VERSION", version);
        let output = machine.install(&["rabbitmq"]);
        assert_eq!(output.status.success(), good, "{version}: {}", words(&output));
        assert!(good || words(&output).contains("can get lost"), "{}", words(&output));
    }
}

#[test]
fn python_and_node_have_no_service_to_hold_back() {
    let machine = Machine::new();
    let output = machine.install(&["python", "node", "curl"]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("apt-get install python3 python3-venv nodejs"), "{}", words(&output));
    assert_eq!(machine.notes(), ["apt-get update", "apt-get install"]);
    assert!(!machine.root("usr/sbin/policy-rc.d").exists(), "later installations start services again");
}

#[test]
fn a_python_that_makes_no_environments_gets_what_it_lacks() {
    let machine = Machine::new();
    machine.stub("python3", "exit 1");
    let output = machine.install(&["python"]);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(machine.notes(), ["apt-get update", "apt-get install"]);
}

#[test]
fn an_old_python_or_node_is_refused_with_what_to_do() {
    let rows = [
        ("python", "python3", "echo 3.9", Some("3.10 or newer")),
        ("python", "python3", "echo 3.13", None),
        ("node", "node", "echo v16.20.2", Some("18.0 or newer")),
        ("node", "node", "echo v22.1.0", None),
        ("node", "node", "echo unheard of", Some("18.0 or newer")),
    ];
    for (name, program, script, fix) in rows {
        let machine = Machine::new();
        machine.stub(program, script);
        let output = machine.install(&[name]);
        assert_eq!(output.status.success(), fix.is_none(), "{script}: {}", words(&output));
        assert!(words(&output).contains(fix.unwrap_or_default()), "{}", words(&output));
        assert!(machine.notes().is_empty(), "nothing is installed over it");
    }
}

#[test]
fn without_root_sudo_is_used_if_it_does_not_ask() {
    let machine = Machine::new();
    machine.stub("id", r#"if [ -n "$AS_ROOT" ]; then echo 0; else echo 1000; fi"#);
    machine.stub("sudo", r#"shift; echo "sudo" >>"$NOTES"; AS_ROOT=1 exec "$@""#);
    machine.stub("true", "");
    let output = machine.install(&["redis"]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(machine.notes().contains(&"apt-get install".to_owned()));
}

#[test]
fn without_root_and_sudo_the_exact_command_is_printed() {
    let machine = Machine::new();
    machine.stub("id", "echo 1000");
    let output = machine.install(&["redis"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("deploy/local/install --no-toolchain redis"), "{}", words(&output));
    assert!(machine.notes().is_empty());
}

#[test]
fn on_macos_one_line_for_brew_is_printed() {
    let machine = Machine::new().without("bin/uname");
    machine.stub("uname", "echo Darwin");
    let output = machine.install(&["rabbitmq", "redis", "postgres", "python", "node", "curl"]);
    assert!(words(&output).contains("brew install rabbitmq redis postgresql@17 python node curl\n"), "{}", words(&output));
}

#[test]
fn a_toolchain_that_does_not_do_is_named_with_its_fix() {
    let old = Machine::new();
    old.stub("rustc", "echo 'rustc 1.85.1 (abc 2025-03-18)'");
    for (machine, fix) in [
        (old, "rustup update"),
        (Machine::new().without("bin/cc"), "apt-get install -y gcc"),
        (Machine::new().without("bin/cargo"), "rustup.rs"),
    ] {
        let output = machine.install(&["redis"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(words(&output).contains(fix), "{}", words(&output));
        assert!(machine.notes().is_empty(), "nothing is installed before");
    }
}

#[test]
fn an_unknown_word_is_wrong_use() {
    assert_eq!(Machine::new().install(&["mysql"]).status.code(), Some(2));
}
