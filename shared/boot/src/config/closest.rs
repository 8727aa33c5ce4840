//! Keys that nobody reads, and what was probably meant.

use figment::value::{Dict, Value};

/// Suggestions in one message.
const SUGGESTIONS: usize = 3;

/// The message for the unknown key `field` in `section`, where `known` keys exist.
pub(super) fn unknown<'a>(section: &[String], field: &str, known: impl Iterator<Item = &'a str>, place: &str) -> String {
    let full = |key: &str| section.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join(".");
    let mut known: Vec<&str> = known.collect();
    known.sort_by_key(|k| distance(k, field));
    known.truncate(SUGGESTIONS);
    let closest: Vec<String> = known.into_iter().map(|k| format!("`{}`", full(k))).collect();
    let closest = if closest.is_empty() { String::new() } else { format!(": closest known: {}", closest.join(", ")) };
    format!("unknown key `{}`{place}{closest}", full(field))
}

/// Messages for keys of `given` that left no trace in `effective`: their section does not refuse unknown keys itself.
pub(super) fn ignored(given: &Dict, effective: &Dict) -> Vec<String> {
    let mut messages = Vec::new();
    walk(given, effective, &mut Vec::new(), &mut messages);
    messages
}

fn walk(given: &Dict, effective: &Dict, section: &mut Vec<String>, messages: &mut Vec<String>) {
    for (key, value) in given {
        match (value, effective.get(key)) {
            (_, None) => messages.push(unknown(section, key, effective.keys().map(String::as_str), "")),
            (Value::Dict(_, given), Some(Value::Dict(_, effective))) => {
                section.push(key.clone());
                walk(given, effective, section, messages);
                section.pop();
            }
            // A secret given as { file = … } is a text by now.
            _ => {}
        }
    }
}

/// The full names of all keys that hold a value, `section.key`.
pub(super) fn leaves(tree: &Dict) -> Vec<String> {
    let below = |(key, value): (&String, &Value)| match value.as_dict() {
        Some(dict) => leaves(dict).into_iter().map(|leaf| format!("{key}.{leaf}")).collect(),
        None => vec![key.clone()],
    };
    tree.iter().flat_map(below).collect()
}

/// Levenshtein's distance: single-character changes that turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_changes() {
        for (one, other, expected) in [("listen", "listn", 1), ("", "abc", 3), ("kitten", "sitting", 3), ("a", "a", 0)] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }
}
