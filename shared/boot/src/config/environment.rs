//! Configuration from the process's environment.

use figment::value::{Dict, Value};

use super::closest;

const PREFIX: &str = "COUNTERSIGN_";
const SEPARATOR: &str = "__";
/// Variables of our test tools; whatever follows is theirs.
const TESTS: &str = "TEST_";
const FAILPOINTS: &str = "FAILPOINTS";
/// Sections that one of the services has and another has not: one environment may serve all of them.
const SECTIONS_OF_SOME: [&str; 7] = ["upstream", "downstream", "callback", "database", "redis", "policy", "grpc"];

/// What the frame takes from the environment of the process.
pub(crate) struct Environment {
    /// All variables that may be configuration.
    pub variables: Vec<(String, String)>,
    /// What failpoints do, in builds that have them.
    pub failpoints: Option<String>,
}

/// Reads the environment of the process: the only place that does. Variables that are not UTF-8 are left alone.
pub(crate) fn process_environment() -> Environment {
    let text = |(k, v): (std::ffi::OsString, std::ffi::OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
    let all: Vec<(String, String)> = std::env::vars_os().filter_map(text).collect();
    let failpoints = all.iter().find(|(k, _)| k == FAILPOINTS).map(|(_, v)| v.clone());
    let variables = all.into_iter().filter(|(k, _)| k.starts_with(PREFIX)).collect();
    Environment { variables, failpoints }
}

/// The tree that `variables` say.
///
/// `COUNTERSIGN_<SECTION>__<KEY>` is configuration, and so is `COUNTERSIGN_<KEY>` where `KEY` is a top-level key.
/// Everything else belongs to somebody else (a container platform sets `COUNTERSIGN_UPSTREAM_SERVICE_HOST` for a service
/// of that name), unless it is a known key with one underscore where two belong: that is refused. A section that only another
/// service has is passed over.
pub(super) fn tree(variables: impl IntoIterator<Item = (String, String)>, defaults: &Dict) -> Result<Dict, Vec<String>> {
    let mut variables: Vec<_> = variables.into_iter().collect();
    // Sorted, so that the same variables always give the same tree.
    variables.sort();
    let mut tree = Dict::new();
    let mut problems = Vec::new();
    for (variable, text) in variables {
        let Some(name) = variable.strip_prefix(PREFIX).filter(|n| !n.starts_with(TESTS)) else {
            continue;
        };
        let lower = name.to_ascii_lowercase();
        let path: Vec<&str> = lower.split(SEPARATOR).collect();
        if path.len() > 1 && !defaults.contains_key(path[0]) && SECTIONS_OF_SOME.contains(&path[0]) {
            continue;
        }
        if path.len() > 1 || defaults.get(path[0]).is_some_and(|d| d.as_dict().is_none()) {
            insert(&mut tree, &path, typed(&text, find(defaults, &path)));
        } else if let Some(key) = closest::leaves(defaults).iter().find(|k| k.replace('.', "_") == lower) {
            let meant = key.to_ascii_uppercase().replace('.', SEPARATOR);
            problems.push(format!("variable {variable} is not read: write {PREFIX}{meant}, with two underscores"));
        }
    }
    if problems.is_empty() { Ok(tree) } else { Err(problems) }
}

/// A variable holds text. Where the default says that the key is a text it stays one; where it says otherwise it becomes
/// a number, a truth or a list. Where there is no default it becomes one only if nothing is lost: `007` stays text.
fn typed(text: &str, default: Option<&Value>) -> Value {
    let Ok(value) = text.parse::<Value>();
    let lost = |value: &Value| {
        let unsigned = value.to_u128().map(|n| n.to_string());
        let number = unsigned.or_else(|| value.to_i128().map(|n| n.to_string()));
        number.or_else(|| value.to_f64().map(|n| n.to_string())).is_some_and(|written| written != text)
    };
    match default {
        Some(Value::String(..)) => Value::from(text),
        None | Some(Value::Empty(..)) if lost(&value) => Value::from(text),
        _ => value,
    }
}

fn find<'a>(tree: &'a Dict, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = tree.get(*first)?;
    if rest.is_empty() { Some(value) } else { find(value.as_dict()?, rest) }
}

fn insert(tree: &mut Dict, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        tree.insert((*first).to_owned(), value);
        return;
    }
    let mut below = tree.remove(*first).and_then(Value::into_dict).unwrap_or_default();
    insert(&mut below, rest, value);
    tree.insert((*first).to_owned(), Value::from(below));
}
