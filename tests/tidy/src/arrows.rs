//! Which crate may know which.

use crate::code::outside_tests;
use crate::{Complaint, Tree};

/// From the ground up; a crate may import only from floors below its own.
const FLOORS: [&[&str]; 7] = [
    &["shared/delivery", "shared/telemetry"],
    &["shared/wire", "shared/boot", "shared/testkit"],
    &["shared/store", "shared/dedup", "shared/audit"],
    &["shared/broker"],
    &["services/upstream", "services/downstream", "services/callback", "services/ctl"],
    &["tests/launcher", "tests/tidy"],
    &["tests/conformance", "tests/flow", "tests/demo", "tests/chaos", "tests/bench"],
];
/// What tests of any crate may use besides: in-memory adapters and private servers.
const FOR_TESTS: [&str; 2] = ["shared/testkit", "tests/launcher"];
/// Each driver, and the one crate that knows it; crates below `tests/` may look behind the scenes.
const DRIVERS: [(&str, &str); 4] =
    [("lapin", "shared/broker"), ("sea-orm", "shared/store"), ("sea-orm-migration", "shared/store"), ("redis", "shared/dedup")];
const NOT_IN_DELIVERY: [&str; 7] = ["tokio", "lapin", "redis", "sea-orm", "futures", "rand", "tonic"];
const CLOCKS: [&str; 6] = ["SystemTime::now", "Instant::now", "Utc::now", "Local::now", "Timestamp::now", "Zoned::now"];

/// Dependencies run downwards only, services never know each other, and sources import nothing that stands above them.
#[must_use]
pub fn arrows(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (folder, manifest) in manifests(tree) {
        let Some(floor) = floor(&folder) else {
            complaints.push(format!("{folder}: on no floor of the house"));
            continue;
        };
        for (table, for_tests) in [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)] {
            for other in dependencies(&manifest, table).iter().filter_map(|name| folder_of(name)) {
                let allowed = below(&other, floor) || (for_tests && (FOR_TESTS.contains(&other.as_str()) || other == folder));
                if !allowed {
                    complaints.push(format!("{folder}: [{table}] {other} is not below it"));
                }
            }
        }
    }
    for file in tree.rust().filter(|file| !file.is_test()) {
        let Some(floor) = file.crate_folder().and_then(floor) else { continue };
        let code = outside_tests(&file.text);
        for other in FLOORS.iter().skip(floor).flat_map(|crates| crates.iter()) {
            let name = format!("countersign_{}", crate_name(other));
            if file.crate_folder() != Some(*other) && code.contains(&format!("{name}::")) {
                complaints.push(format!("{}: imports {other}, which is not below it", file.path));
            }
        }
    }
    complaints
}

/// A driver is known to one crate. Tests and examples may use what they like: they stand for somebody else's service too.
#[must_use]
pub fn one_crate_per_driver(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (folder, manifest) in manifests(tree).into_iter().filter(|(folder, _)| !folder.starts_with("tests/")) {
        let known = dependencies(&manifest, "dependencies");
        for (driver, home) in DRIVERS {
            if folder != home && known.iter().any(|name| name == driver) {
                complaints.push(format!("{folder}: knows {driver}, which is {home}'s business"));
            }
        }
    }
    complaints
}

/// `delivery` does no input or output and reads no clock.
#[must_use]
pub fn delivery_is_pure(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (folder, manifest) in manifests(tree).into_iter().filter(|(folder, _)| folder == "shared/delivery") {
        let known = dependencies(&manifest, "dependencies");
        let strange = NOT_IN_DELIVERY.iter().filter(|name| known.iter().any(|known| known == *name));
        complaints.extend(strange.map(|name| format!("{folder}: depends on {name}")));
    }
    for file in tree.rust().filter(|file| file.path.starts_with("shared/delivery/src/")) {
        let code = outside_tests(&file.text);
        let clocks = CLOCKS.iter().filter(|clock| code.contains(*clock));
        complaints.extend(clocks.map(|clock| format!("{}: reads a clock by {clock}", file.path)));
        let effects = ["std::fs", "std::net", "std::env", "std::thread"].into_iter().filter(|name| code.contains(name));
        complaints.extend(effects.map(|name| format!("{}: uses {name}", file.path)));
    }
    complaints
}

/// Folder and manifest of every crate.
fn manifests(tree: &Tree) -> Vec<(String, toml::Table)> {
    let crates = tree.files.iter().filter_map(|file| {
        let folder = file.path.strip_suffix("/Cargo.toml")?;
        // A manifest that cargo cannot read stops the build long before this test.
        Some((folder.to_owned(), file.text.parse().unwrap_or_default()))
    });
    crates.collect()
}

fn dependencies(manifest: &toml::Table, table: &str) -> Vec<String> {
    let names = manifest.get(table).and_then(toml::Value::as_table).map(|table| table.keys().cloned().collect());
    names.unwrap_or_default()
}

fn crate_name(folder: &str) -> &str {
    folder.rsplit('/').next().unwrap_or(folder)
}

/// The folder of a package of this workspace; the last word of both is the same.
fn folder_of(package: &str) -> Option<String> {
    let name = package.strip_prefix("countersign-")?;
    let known = FLOORS.iter().flat_map(|crates| crates.iter()).find(|folder| crate_name(folder) == name);
    Some(known.map_or_else(|| package.to_owned(), |folder| (*folder).to_owned()))
}

fn floor(folder: &str) -> Option<usize> {
    FLOORS.iter().position(|crates| crates.contains(&folder))
}

fn below(other: &str, than: usize) -> bool {
    floor(other).is_some_and(|floor| floor < than)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(table: &str, names: &[&str]) -> String {
        let lines: Vec<_> = names.iter().map(|name| format!("{name}.workspace = true")).collect();
        format!("[{table}]\n{}\n", lines.join("\n"))
    }

    #[test]
    fn arrows_upwards_and_sideways_are_found() {
        let wire = manifest("dependencies", &["countersign-delivery", "countersign-broker", "prost"]);
        let upstream = manifest("dependencies", &["countersign-callback", "countersign-store"]);
        let dedup = manifest("dev-dependencies", &["countersign-testkit", "countersign-launcher", "countersign-ctl"]);
        let tree = Tree::of(&[
            ("shared/wire/Cargo.toml", &wire),
            ("services/upstream/Cargo.toml", &upstream),
            ("shared/dedup/Cargo.toml", &dedup),
            ("shared/new/Cargo.toml", ""),
            ("shared/store/src/lib.rs", "use countersign_broker::Publisher;\n// countersign_upstream::\n"),
        ]);
        let complaints = arrows(&tree);
        assert_eq!(
            complaints,
            [
                "shared/wire: [dependencies] shared/broker is not below it",
                "services/upstream: [dependencies] services/callback is not below it",
                "shared/dedup: [dev-dependencies] services/ctl is not below it",
                "shared/new: on no floor of the house",
                "shared/store/src/lib.rs: imports shared/broker, which is not below it",
            ]
        );
    }

    #[test]
    fn a_driver_in_the_wrong_crate_is_found() {
        let knows = manifest("dependencies", &["lapin", "redis"]);
        let tree = Tree::of(&[("shared/broker/Cargo.toml", &knows), ("tests/flow/Cargo.toml", &knows)]);
        assert_eq!(one_crate_per_driver(&tree), ["shared/broker: knows redis, which is shared/dedup's business"]);
    }

    #[test]
    fn impurity_is_found() {
        let tree = Tree::of(&[
            ("shared/delivery/Cargo.toml", &manifest("dependencies", &["tokio"])),
            ("shared/delivery/src/time.rs", "fn now() { std::time::Instant::now(); }\n// SystemTime::now\n"),
        ]);
        assert_eq!(delivery_is_pure(&tree).len(), 2);
    }
}
