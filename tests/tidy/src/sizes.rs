//! Past a certain size something wants out.

use crate::functions::functions;
use crate::{Complaint, Tree};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
const MAIN_LINES: usize = 30;

/// Files, functions (outside tests) and the `main.rs` of services stay within their limits.
#[must_use]
pub fn sizes(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.rust() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            complaints.push(format!("{}: {lines} lines, {FILE_LINES} are the most", file.path));
        }
        if file.path.starts_with("services/") && file.path.ends_with("/main.rs") && lines > MAIN_LINES {
            complaints.push(format!("{}: {lines} lines, {MAIN_LINES} are the most for a main", file.path));
        }
        if file.is_test() && !file.path.contains("/src/") {
            continue;
        }
        for function in functions(&file.text).iter().filter(|function| function.lines > FUNCTION_LINES) {
            complaints.push(format!(
                "{}:{}: `{}` has {} lines, {FUNCTION_LINES} are the most",
                file.path, function.line, function.name, function.lines
            ));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_found() {
        let function = format!("fn long() {{\n{}}}\n", "    a();\n".repeat(FUNCTION_LINES));
        let main = "//\n".repeat(MAIN_LINES + 1);
        let file = "//\n".repeat(FILE_LINES + 1);
        let tree = Tree::of(&[
            ("shared/a/src/a.rs", &function),
            ("shared/a/tests/a.rs", &function),
            ("services/a/src/main.rs", &main),
            ("shared/a/src/b.rs", &file),
        ]);
        let complaints = sizes(&tree);
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        assert!(complaints[0].contains("`long` has 72 lines"));
    }
}
