//! What stands where, and what nothing is called.

use std::collections::BTreeSet;

use crate::{Complaint, Tree};

/// The top level, apart from files that begin with a dot.
const TOP: [&str; 8] = ["Cargo.lock", "Cargo.toml", "README.md", "deploy", "proto", "services", "shared", "tests"];
/// May stand there besides.
const TOP_MAY: [&str; 2] = ["LICENSE", "rust-toolchain.toml"];
/// Words that say nothing about what is inside.
const EMPTY_WORDS: [&str; 8] = ["util", "utils", "common", "core", "helper", "helpers", "manager", "misc"];
const DECLARATIONS: [&str; 5] = ["struct ", "enum ", "trait ", "mod ", "type "];

/// The top level is the one that was agreed on.
#[must_use]
pub fn top_level(tree: &Tree) -> Vec<Complaint> {
    let found: BTreeSet<&str> = tree.files.iter().filter_map(|file| file.path.split('/').next()).collect();
    let missing = TOP.iter().filter(|name| !found.contains(*name)).map(|name| format!("{name} is missing"));
    let strange = found
        .iter()
        .filter(|name| !name.starts_with('.') && !TOP.contains(name) && !TOP_MAY.contains(name))
        .map(|name| format!("{name}: does not belong at the top level"));
    missing.chain(strange).collect()
}

/// A module is `name.rs`, and nothing outside tests imports by `use super::*`.
#[must_use]
pub fn modules(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.rust() {
        if file.path.ends_with("/mod.rs") {
            complaints.push(format!("{}: call it after its module", file.path));
        }
        let ours = crate::code::outside_tests(&file.text);
        if !file.is_test() && ours.contains("use super::*") {
            complaints.push(format!("{}: `use super::*` hides where a name comes from", file.path));
        }
    }
    complaints
}

/// No file, folder or type has a name that says nothing.
#[must_use]
pub fn names(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.files.iter().filter(|file| file.crate_folder().is_some()) {
        let parts = file.path.split('/').map(|part| part.split('.').next().unwrap_or_default());
        for part in parts.filter(|part| EMPTY_WORDS.contains(part)) {
            complaints.push(format!("{}: `{part}` says nothing", file.path));
        }
        if !file.is_rust() {
            continue;
        }
        for line in crate::code::blank_out(&file.text).lines() {
            if let Some(name) = declared(line)
                && EMPTY_WORDS.iter().any(|word| name.to_ascii_lowercase().ends_with(word))
            {
                complaints.push(format!("{}: `{name}` says nothing", file.path));
            }
        }
    }
    complaints
}

fn declared(line: &str) -> Option<&str> {
    let line = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
    let rest = DECLARATIONS.iter().find_map(|word| line.strip_prefix(word))?;
    rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_at_the_top_and_a_missing_part_are_found() {
        let tree = Tree::of(&[("Cargo.lock", ""), ("notes.txt", ""), (".gitignore", "")]);
        let complaints = top_level(&tree);
        assert!(complaints.contains(&"notes.txt: does not belong at the top level".to_owned()));
        assert!(complaints.contains(&"README.md is missing".to_owned()));
        assert_eq!(complaints.len(), 8);
    }

    #[test]
    fn mod_rs_and_glob_imports_are_found() {
        let glob = "use super::*;";
        let inside = "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
        let tree = Tree::of(&[("shared/a/src/b/mod.rs", ""), ("shared/a/src/c.rs", glob), ("shared/a/src/d.rs", inside)]);
        assert_eq!(modules(&tree).len(), 2);
    }

    #[test]
    fn empty_words_are_found() {
        let tree = Tree::of(&[
            ("shared/a/src/utils.rs", ""),
            ("shared/core/src/lib.rs", ""),
            ("shared/a/src/lib.rs", "pub struct QueueManager;\n// struct FineHelper\nuse redis::ConnectionManager;\n"),
        ]);
        assert_eq!(names(&tree).len(), 3);
    }
}
