//! One step, one file.

use crate::{Complaint, Tree};

/// Each step, and the service that takes it.
const STEPS: [(&str, &str); 8] = [
    ("1", "services/upstream/"),
    ("2", "services/upstream/"),
    ("3", "services/downstream/"),
    ("4", "services/downstream/"),
    ("5", "services/callback/"),
    ("6", "services/callback/"),
    ("7a", "services/callback/"),
    ("7b", "services/upstream/"),
];

/// Each step is the title of exactly one file, in the service that takes it, and nothing else is titled a step.
#[must_use]
pub fn steps(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let services = || tree.rust().filter(|file| file.path.starts_with("services/"));
    for (step, home) in STEPS {
        let title = format!("//! Step {step}:");
        let found: Vec<_> = services().filter(|file| file.text.starts_with(&title)).map(|file| &file.path).collect();
        match found.as_slice() {
            [] => complaints.push(format!("no file begins with `{title}`")),
            [one] if one.starts_with(home) => {}
            [one] => complaints.push(format!("{one}: step {step} belongs to {home}")),
            more => complaints.push(format!("step {step} is told more than once: {more:?}")),
        }
    }
    for file in services() {
        let title = file.text.lines().next().and_then(|line| line.strip_prefix("//! Step "));
        let step = title.map(|title| title.split(':').next().unwrap_or_default());
        if let Some(step) = step.filter(|step| !STEPS.iter().any(|(known, _)| known == step)) {
            complaints.push(format!("{}: there is no step `{step}`", file.path));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_doubled_misplaced_and_invented_steps_are_found() {
        let tree = Tree::of(&[
            ("services/upstream/src/send.rs", "//! Step 1: store.\n"),
            ("services/upstream/src/again.rs", "//! Step 1: store.\n"),
            ("services/upstream/src/record.rs", "//! Step 5: record.\n"),
            ("services/callback/src/check.rs", "//! Step 6: check.\n"),
            ("services/callback/src/more.rs", "//! Step 8: more.\n"),
        ]);
        let complaints = steps(&tree);
        assert_eq!(complaints.len(), 8, "{complaints:?}");
        assert!(!complaints.iter().any(|complaint| complaint.contains("Step 6")));
    }
}
