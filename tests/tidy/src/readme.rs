//! What the README points at exists.

use crate::{Complaint, Tree};

/// What a path of this repository begins with.
const STARTS: [&str; 7] = ["services/", "shared/", "tests/", "deploy/", "proto/", ".ci/", ".config/"];

/// Each path in backticks or as a link in `README.md` exists.
#[must_use]
pub fn readme_paths(tree: &Tree) -> Vec<Complaint> {
    let Some(readme) = tree.file("README.md") else {
        return vec!["README.md is missing".to_owned()];
    };
    let quoted = readme.text.split('`').skip(1).step_by(2);
    let linked = readme.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    quoted
        .chain(linked)
        .filter_map(|words| words.split_whitespace().next())
        .map(|word| word.trim_start_matches("./").trim_end_matches([':', ',', '.', '/']))
        .filter(|word| STARTS.iter().any(|start| word.starts_with(start)) && !word.contains(['*', '<', '{', '…']))
        .map(|word| word.split(['#', ':']).next().unwrap_or(word))
        .filter(|path| !tree.has(path))
        .map(|path| format!("README.md names {path}, which does not exist"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_exists_may_be_named() {
        let text = "`tests/run --long`, `shared/`, [a](shared/a/src/b.rs#L1), `deploy/gone`, `cargo test`, `shared/*/src`";
        let tree = Tree::of(&[("README.md", text), ("tests/run", ""), ("shared/a/src/b.rs", "")]);
        assert_eq!(readme_paths(&tree), ["README.md names deploy/gone, which does not exist"]);
    }
}
