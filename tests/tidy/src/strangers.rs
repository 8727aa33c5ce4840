//! Nothing that belongs to the machine it was written on.

use crate::{Complaint, Tree};

/// Where the lock file may say that packages come from.
const INDEX: &str = concat!("registry+https://github.com/rust-lang/", "crates.io-index");

/// What no file contains. Put together from halves, so that this file does not trip over itself.
fn forbidden() -> Vec<String> {
    let halves = [
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("/Us", "ers/"),
        ("bash_", "jobs"),
        ("index.crates", ".io"),
        ("static.crates", ".io"),
        ("registry.npmjs", ".org"),
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("proxy.golang", ".org"),
        ("deb.debian", ".org"),
        ("security.debian", ".org"),
        ("pkg", ".dev/"),
    ];
    halves.iter().map(|(one, other)| format!("{one}{other}")).collect()
}

/// No path of a developer's machine and no host of a package registry is named anywhere.
#[must_use]
pub fn strangers(tree: &Tree) -> Vec<Complaint> {
    let forbidden = forbidden();
    let mut complaints = Vec::new();
    for file in &tree.files {
        for (number, line) in file.text.lines().enumerate() {
            for word in forbidden.iter().filter(|word| line.contains(*word)) {
                complaints.push(format!("{}:{}: names {word}", file.path, number + 1));
            }
        }
    }
    complaints
}

/// Every package of the lock file comes from the usual index.
#[must_use]
pub fn lock_sources(tree: &Tree) -> Vec<Complaint> {
    let Some(lock) = tree.file("Cargo.lock") else {
        return vec!["Cargo.lock is missing".to_owned()];
    };
    let sources = lock.text.lines().filter_map(|line| line.strip_prefix("source = "));
    let strange = sources.filter(|source| source.trim_matches('"') != INDEX);
    strange.map(|source| format!("Cargo.lock: a package comes from {source}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_ones_own_machine_is_found() {
        let line = format!("see {}me/somebody/notes", "/ho");
        let tree = Tree::of(&[("deploy/a.toml", &line), ("deploy/b.toml", "a/homely/path")]);
        assert_eq!(strangers(&tree).len(), 1);
    }

    #[test]
    fn a_package_from_elsewhere_is_found() {
        let lock = format!("source = \"{INDEX}\"\nsource = \"git+https://example.org/a\"\n");
        assert_eq!(lock_sources(&Tree::of(&[("Cargo.lock", &lock)])).len(), 1);
    }
}
