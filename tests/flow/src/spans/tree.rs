//! Spans as text, so that a test can say what it expects by showing it.

use super::Seen;

/// The chosen spans, each below its parent and indented by two blanks; one whose parent is not among them stands at the margin.
pub fn of(spans: &[Seen], chosen: impl Fn(&Seen) -> bool) -> String {
    let chosen: Vec<&Seen> = spans.iter().filter(|span| chosen(span)).collect();
    let is_there = |id: &[u8]| chosen.iter().any(|span| span.span_id() == id);
    let roots = chosen.iter().filter(|span| !is_there(span.parent_id()));
    joined(roots.map(|root| below(root, &chosen, 0)).collect())
}

fn below(span: &Seen, all: &[&Seen], depth: usize) -> String {
    let children = all.iter().filter(|child| child.parent_id() == span.span_id());
    let indent = "  ".repeat(depth);
    format!("{indent}{}\n{}", span.line(), joined(children.map(|child| below(child, all, depth + 1)).collect()))
}

fn joined(mut siblings: Vec<String>) -> String {
    siblings.sort();
    siblings.dedup();
    siblings.concat()
}
